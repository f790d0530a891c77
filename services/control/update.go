package control

import (
	"context"
	"errors"
	"slices"
	"strings"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"

	controlv1 "sluice/gen/sluice/control/v1"
	stagev1 "sluice/gen/sluice/stage/v1"
	"sluice/libs/clickhouse"
	"sluice/libs/registry"
	"sluice/libs/spec"
)

// casAttempts bounds how often a change is tried again on a record that others change as well.
const casAttempts = 10

// Update replaces the specification of a pipeline and keeps its state. One that changes nothing, in
// the specification or in the table's columns, is answered with the record as it is.
func (s *Service) Update(ctx context.Context, req *controlv1.UpdateRequest) (*controlv1.UpdateResponse, error) {
	id := req.GetPipeline().GetId()
	now, _, err := s.get(ctx, id)
	if err != nil {
		return nil, err
	}
	if err := alive(now); err != nil {
		return nil, err
	}
	if problems := fixed(now.Spec, spec.WithDefaults(req.GetPipeline())); len(problems) > 0 {
		return nil, &unchangeable{problems}
	}
	c, err := s.check(ctx, req.GetPipeline(), now)
	if err != nil {
		return nil, err
	}
	if err := s.sameTopics(ctx, now, c); err != nil {
		return nil, err
	}
	if req.GetValidateOnly() {
		if err := c.pretendWindow(); err != nil {
			return nil, err
		}
	} else if err := s.prepareTable(ctx, c); err != nil {
		return nil, err
	}
	// The registry may have lost a change that is not in the state bucket either: then this one must be beyond it.
	seen, err := s.seenGeneration(ctx, now)
	if err != nil {
		return nil, stored(ctx, err)
	}
	change := func(rec *controlv1.PipelineRecord) (bool, error) {
		if rec.Uid != now.Uid {
			return false, codef(codes.Aborted, "pipeline %q was deleted and made anew meanwhile: try again", id)
		}
		if err := alive(rec); err != nil {
			return false, err
		}
		if problems := fixed(rec.Spec, c.spec); len(problems) > 0 {
			return false, &unchangeable{problems}
		}
		if err := changingLanes(rec, c.spec.GetLanes()); err != nil {
			return false, err
		}
		return c.apply(rec, seen), nil
	}
	if req.GetValidateOnly() {
		_, err = change(now)
	} else if now, err = s.change(ctx, id, change); err == nil {
		s.guarantees.keep(now, clickhouse.GuaranteeOf(c.table))
	}
	if err != nil {
		return nil, err
	}
	return &controlv1.UpdateResponse{Pipeline: now, Warnings: c.allWarnings()}, nil
}

// apply puts what was checked into a record and tells whether anything is different. The record's generation is then beyond seen.
func (c *checked) apply(rec *controlv1.PipelineRecord, seen uint64) bool {
	guarantee := clickhouse.GuaranteeOf(c.table)
	current := rec.Schemas[len(rec.Schemas)-1]
	next := &controlv1.Schema{Revision: current.Revision, Columns: c.columns}
	if proto.Equal(rec.Spec, c.spec) && proto.Equal(current, next) && proto.Equal(rec.Guarantee, guarantee) && rec.Generation >= seen {
		return false
	}
	if !proto.Equal(current, next) {
		// Batches of the older layouts may still be in the logs, so those stay.
		next.Revision++
		rec.Schemas = append(rec.Schemas, next)
	}
	changeLanes(rec, c.spec.GetLanes())
	rec.Spec = proto.CloneOf(c.spec)
	rec.Guarantee = guarantee
	rec.Generation = max(rec.Generation, seen) + 1
	return true
}

// change applies a function to a record with compare-and-set until it holds. The function tells
// whether it changed anything.
func (s *Service) change(ctx context.Context, id string, f func(*controlv1.PipelineRecord) (bool, error)) (*controlv1.PipelineRecord, error) {
	for range casAttempts {
		rec, rev, err := s.get(ctx, id)
		if err != nil {
			return nil, err
		}
		changed, err := f(rec)
		if err != nil || !changed {
			return rec, err
		}
		touch(rec)
		_, err = s.registry.Update(ctx, rec, rev)
		if err == nil {
			return rec, nil
		}
		if !errors.Is(err, registry.ErrConflict) {
			return nil, stored(ctx, err)
		}
	}
	return nil, codef(codes.Aborted, "pipeline %q is being changed by others all the time: try again", id)
}

// sameTopics refuses other brokers when they are of another cluster: offsets mean nothing there. The
// ids that the ingestor has seen tell; a topic made anew on the same brokers is none of this.
func (s *Service) sameTopics(ctx context.Context, rec *controlv1.PipelineRecord, c *checked) error {
	var units []*stagev1.UnitStatus
	var problems []spec.Problem
	for _, t := range c.topics {
		brokers := t.branch.Spec.GetKafka().GetBrokers()
		before, _ := spec.BranchOf(rec.Spec, t.branch.Source)
		if slices.Equal(before.Spec.GetKafka().GetBrokers(), brokers) {
			continue
		}
		if units == nil {
			var err error
			if units, err = s.units(ctx, rec); err != nil {
				return err
			}
		}
		known, same := false, false
		for _, u := range units {
			if u.Stage == spec.StageIngest && u.Source == t.branch.Source && len(u.TopicId) > 0 {
				known, same = true, same || string(u.TopicId) == string(t.topic.ID[:])
			}
		}
		if !known || same { // not known: nothing was read yet
			continue
		}
		problems = append(problems, spec.Problem{
			Field: t.branch.Field() + ".kafka.brokers", Value: strings.Join(brokers, ", "),
			What:   "are of another cluster: the topic has another id there, and offsets mean other records",
			Remedy: "name brokers of the same cluster, or delete the pipeline and create it anew",
		})
	}
	if len(problems) > 0 {
		return &unchangeable{problems}
	}
	return nil
}
