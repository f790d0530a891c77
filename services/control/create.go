package control

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/google/uuid"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/types/known/timestamppb"

	controlv1 "sluice/gen/sluice/control/v1"
	"sluice/libs/clickhouse"
	"sluice/libs/kafka"
	"sluice/libs/registry"
	"sluice/libs/spec"
)

// Create checks a pipeline and starts it. A call that fails leaves nothing that a second one would
// stumble over: the record, which makes the pipeline, is stored last.
func (s *Service) Create(ctx context.Context, req *controlv1.CreateRequest) (*controlv1.CreateResponse, error) {
	id := req.GetPipeline().GetId()
	if err := s.free(ctx, id); err != nil {
		return nil, err
	}
	if err := s.notOrphaned(ctx, id); err != nil {
		return nil, err
	}
	c, err := s.check(ctx, req.GetPipeline(), nil)
	if err != nil {
		return nil, err
	}
	if err := s.ownGroup(ctx, c.spec); err != nil {
		return nil, err
	}
	if req.GetValidateOnly() {
		if err := c.pretendWindow(); err != nil {
			return nil, err
		}
	} else if err := s.prepareTable(ctx, c); err != nil {
		return nil, err
	}
	now := timestamppb.Now()
	rec := &controlv1.PipelineRecord{
		Spec: c.spec, Desired: controlv1.DesiredState_RUNNING, Generation: 1,
		Schemas:   []*controlv1.Schema{{Revision: 1, Columns: c.columns}},
		Guarantee: clickhouse.GuaranteeOf(c.table), CreateTime: now, UpdateTime: now,
	}
	for _, t := range c.topics {
		switch {
		case t.branch.Source == "":
			rec.StartOffsets = t.start
		case t.start != nil:
			if rec.SourceStartOffsets == nil {
				rec.SourceStartOffsets = map[string]*controlv1.StartOffsets{}
			}
			rec.SourceStartOffsets[t.branch.Source] = t.start
		}
	}
	resp := &controlv1.CreateResponse{Pipeline: rec, Warnings: c.allWarnings()}
	if req.GetValidateOnly() {
		return resp, nil
	}
	rec.Uid = uuid.NewString()

	unlock, err := s.locks.lock(ctx, id)
	if err != nil {
		return nil, err
	}
	defer unlock()
	if err := s.free(ctx, id); err != nil {
		return nil, err
	}
	if err := s.notOrphaned(ctx, id); err != nil {
		return nil, err
	}
	s.forgetGroups(ctx, c.spec)
	// What a creation that was cut off has left, which is empty.
	if err := s.remove(ctx, id); err != nil {
		return nil, stored(ctx, err)
	}
	if err := s.ensure(ctx, c.spec); err != nil {
		return nil, stored(ctx, err)
	}
	if err := s.store(ctx, rec); err != nil {
		return nil, err
	}
	s.guarantees.keep(rec, rec.Guarantee)
	s.log.Info("pipeline created", "pipeline", id, "uid", rec.Uid, "guarantee", rec.Guarantee.GetLevel().String())
	return resp, nil
}

// free tells whether an id can be taken.
func (s *Service) free(ctx context.Context, id string) error {
	rec, _, err := s.registry.Get(ctx, id)
	switch {
	case errors.Is(err, registry.ErrNotFound):
		return nil
	case err != nil:
		return stored(ctx, err)
	case rec.Desired == controlv1.DesiredState_DELETING:
		return codef(codes.AlreadyExists, "pipeline %q is still being deleted: try again when it is gone", id)
	}
	return codef(codes.AlreadyExists, "pipeline %q exists: update it, or choose another id", id)
}

// store stores a new record. When the answer is lost, the uid tells whether the record is ours.
func (s *Service) store(ctx context.Context, rec *controlv1.PipelineRecord) error {
	_, err := s.registry.Create(ctx, rec)
	if err == nil {
		return nil
	}
	if there, _, again := s.registry.Get(ctx, rec.Spec.Id); again == nil && there.Uid == rec.Uid {
		return nil
	}
	return stored(ctx, err)
}

// prepareTable makes the table or gives it a window, where that was asked for, and looks at it again.
func (s *Service) prepareTable(ctx context.Context, c *checked) error {
	ctx, cancel := context.WithTimeout(ctx, s.config.ProbeTimeout)
	defer cancel()
	sink := c.spec.Sink.Clickhouse
	var err error
	switch {
	case c.create != nil:
		err = clickhouse.CreateTable(ctx, sink, c.create, c.orderBy())
	case c.lacksWindow():
		err = clickhouse.SetDeduplicationWindow(ctx, sink, c.table)
	default:
		return nil
	}
	if err == nil {
		c.table, err = clickhouse.Describe(ctx, sink)
	}
	if err != nil {
		problem, unreachable := refused(err)
		if unreachable {
			return verdict(nil, []string{"ClickHouse cannot be asked: " + problem.What})
		}
		return verdict([]spec.Problem{problem}, nil)
	}
	// The types are now as the server prints them.
	var problems []spec.Problem
	c.columns, _, problems = c.fit()
	return verdict(problems, nil)
}

// lacksWindow tells whether the table is to be given a deduplication window.
func (c *checked) lacksWindow() bool {
	return c.create == nil && c.spec.Sink.Clickhouse.SetDeduplicationWindow && c.table.Window == 0
}

// pretendWindow looks at the table as it will be when it has been given a deduplication window, and says so: nothing is done to it.
func (c *checked) pretendWindow() error {
	if !c.lacksWindow() {
		return nil
	}
	if !strings.HasSuffix(c.table.Engine, "MergeTree") {
		return verdict([]spec.Problem{{Field: "sink.clickhouse.set_deduplication_window",
			What: c.table.Name.String() + " is a " + c.table.Engine + " table, which has no deduplication window", Remedy: "leave it out, or use a table of the MergeTree family"}}, nil)
	}
	statement := clickhouse.WindowStatement(c.table)
	given := *c.table
	given.Window = clickhouse.DefaultWindow
	c.table = &given
	c.warnings = append(c.warnings, "only checked: set_deduplication_window would change the table by "+statement)
	return nil
}

// allWarnings adds what the guarantee leaves to be wished for.
func (c *checked) allWarnings() []string {
	warnings := c.warnings
	g := clickhouse.GuaranteeOf(c.table)
	if g.GetLevel() != controlv1.Guarantee_EXACTLY_ONCE {
		text := "at least once: " + g.GetReason()
		if g.GetRemedy() != "" {
			text += " For exactly once: " + g.GetRemedy()
		}
		return append(warnings, text)
	}
	cover := clickhouse.Coverage(g.GetDeduplicationWindow(), c.spec.GetLanes(), c.spec.GetBatch().GetMaxDelay().AsDuration())
	if cover < 10*time.Minute {
		warnings = append(warnings, fmt.Sprintf("the table remembers %d blocks, at full speed those of %s: an insert in doubt for longer may be repeated; raise the table's deduplication window or batch.max_delay",
			g.GetDeduplicationWindow(), cover.Round(time.Second)))
	}
	return warnings
}

// ownGroup refuses a consumer group that another pipeline uses: each would be given only some partitions.
func (s *Service) ownGroup(ctx context.Context, p *controlv1.Pipeline) error {
	all, err := s.registry.List(ctx)
	if err != nil {
		return stored(ctx, err)
	}
	users := map[string]string{}
	for _, other := range all {
		if other.GetSpec().GetId() == p.GetId() {
			continue
		}
		for _, b := range spec.Branches(other.GetSpec()) {
			users[b.Spec.GetKafka().GetGroup()] = other.GetSpec().GetId()
		}
	}
	var problems []spec.Problem
	for _, b := range spec.Branches(p) {
		group := b.Spec.GetKafka().GetGroup()
		if user, used := users[group]; used {
			remedy := "give another group, or leave it out"
			if group == defaultGroup(p, b) {
				remedy = "give another group"
			}
			problems = append(problems, spec.Problem{Field: b.Field() + ".kafka.group", Value: group, What: "is used by pipeline " + user, Remedy: remedy})
		}
	}
	if len(problems) > 0 {
		return &invalid{problems}
	}
	return nil
}

// forgetGroups removes the offsets that an earlier pipeline of this id has committed, so that nothing is
// skipped by them. A group that the user has named may be meant to go on and stays.
func (s *Service) forgetGroups(ctx context.Context, p *controlv1.Pipeline) {
	for _, b := range spec.Branches(p) {
		if b.Spec.GetKafka().GetGroup() == defaultGroup(p, b) {
			s.deleteGroup(ctx, p.GetId(), b)
		}
	}
}

func defaultGroup(p *controlv1.Pipeline, b spec.Branch) string {
	if b.Source == "" {
		return spec.DefaultGroup(p.GetId())
	}
	return spec.DefaultSourceGroup(p.GetId(), b.Source)
}

// deleteGroup removes a consumer group as far as Kafka allows: a cluster that is gone must not keep a
// pipeline from being deleted, and a new pipeline of the id tries again.
func (s *Service) deleteGroup(ctx context.Context, id string, b spec.Branch) {
	ctx, cancel := context.WithTimeout(ctx, s.config.StopTimeout)
	defer cancel()
	source := b.Spec.GetKafka()
	err := s.kafka.useOf(ctx, b, func(c *kafka.Cluster) error { return c.DeleteGroup(ctx, source.GetGroup()) })
	if err != nil {
		s.log.Warn("the consumer group could not be removed", "pipeline", id, "group", source.GetGroup(), "error", err)
	}
}
