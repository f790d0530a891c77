package control

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	controlv1 "sluice/gen/sluice/control/v1"
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
	c, err := s.check(ctx, req.GetPipeline(), false)
	if err != nil {
		return nil, err
	}
	if err := s.sameTopic(ctx, now, c); err != nil {
		return nil, err
	}
	if !req.GetValidateOnly() {
		if err := s.prepareTable(ctx, c); err != nil {
			return nil, err
		}
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
		return c.apply(rec), nil
	}
	if req.GetValidateOnly() {
		_, err = change(now)
	} else {
		now, err = s.change(ctx, id, change)
	}
	if err != nil {
		return nil, err
	}
	return &controlv1.UpdateResponse{Pipeline: now, Warnings: c.allWarnings()}, nil
}

// apply puts what was checked into a record and tells whether anything is different.
func (c *checked) apply(rec *controlv1.PipelineRecord) bool {
	guarantee := clickhouse.GuaranteeOf(c.table)
	current := rec.Schemas[len(rec.Schemas)-1]
	next := &controlv1.Schema{Revision: current.Revision, Columns: c.columns}
	if proto.Equal(rec.Spec, c.spec) && proto.Equal(current, next) && proto.Equal(rec.Guarantee, guarantee) {
		return false
	}
	if !proto.Equal(current, next) {
		// Batches of the older layouts may still be in the logs, so those stay.
		next.Revision++
		rec.Schemas = append(rec.Schemas, next)
	}
	rec.Spec = proto.CloneOf(c.spec)
	rec.Guarantee = guarantee
	rec.Generation++
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
		rec.UpdateTime = timestamppb.Now()
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

// fixed lists the changes that the state of a pipeline does not survive.
func fixed(from, to *controlv1.Pipeline) []spec.Problem {
	var problems []spec.Problem
	refuse := func(field string, from, to any, why string) {
		problems = append(problems, spec.Problem{Field: field, Value: fmt.Sprint(to), What: fmt.Sprintf("cannot change from %v in place: %s", from, why),
			Remedy: "delete the pipeline and create it anew, or create another beside it"})
	}
	differ := func(field, from, to, why string) {
		if from != to {
			refuse(field, orNone(from), orNone(to), why)
		}
	}
	if from.Lanes != to.Lanes {
		refuse("lanes", from.Lanes, to.Lanes, "keys would move between lanes and their state would not")
	}
	k, toK := from.GetSource().GetKafka(), to.GetSource().GetKafka()
	const positions = "positions and state belong to it"
	differ("source.kafka.topic", k.GetTopic(), toK.GetTopic(), positions)
	differ("source.kafka.group", k.GetGroup(), toK.GetGroup(), positions)
	differ("source.kafka.start", k.GetStart(), toK.GetStart(), "the pipeline has begun")
	ch, toCH := from.GetSink().GetClickhouse(), to.GetSink().GetClickhouse()
	const written = "what is written to the one cannot be taken for written to the other"
	differ("sink.clickhouse.database", ch.GetDatabase(), toCH.GetDatabase(), written)
	differ("sink.clickhouse.table", ch.GetTable(), toCH.GetTable(), written)
	d, toD := from.GetDedup(), to.GetDedup()
	switch {
	case d == nil && toD == nil:
	case d == nil:
		refuse("dedup", "none", "set", "the keys of the past are not known")
	case toD == nil:
		refuse("dedup", "set", "none", "what is on its way through dedup would be lost")
	default:
		const state = "the remembered keys were made with it"
		if !slices.Equal(d.Key, toD.Key) {
			refuse("dedup.key", strings.Join(d.Key, ", "), strings.Join(toD.Key, ", "), state)
		}
		differ("dedup.keep", d.Keep.String(), toD.Keep.String(), state)
		differ("dedup.version", d.Version, toD.Version, state)
		differ("dedup.time", d.Time, toD.Time, state)
	}
	return problems
}

func orNone(text string) string {
	if text == "" {
		return "none"
	}
	return text
}

// sameTopic refuses other brokers when they are of another cluster: offsets mean nothing there. The
// ids that the ingestor has seen tell; a topic made anew on the same brokers is none of this.
func (s *Service) sameTopic(ctx context.Context, rec *controlv1.PipelineRecord, c *checked) error {
	brokers := rec.Spec.GetSource().GetKafka().GetBrokers()
	if slices.Equal(brokers, c.spec.GetSource().GetKafka().GetBrokers()) {
		return nil
	}
	units, err := s.units(ctx, rec)
	if err != nil {
		return err
	}
	known := false
	for _, u := range units {
		if u.Stage == spec.StageIngest && len(u.TopicId) > 0 {
			if string(u.TopicId) == string(c.topicID[:]) {
				return nil
			}
			known = true
		}
	}
	if !known {
		return nil // nothing was read yet
	}
	return &unchangeable{[]spec.Problem{{
		Field: "source.kafka.brokers", Value: strings.Join(c.spec.Source.Kafka.Brokers, ", "),
		What:   "are of another cluster: the topic has another id there, and offsets mean other records",
		Remedy: "name brokers of the same cluster, or delete the pipeline and create it anew",
	}}}
}
