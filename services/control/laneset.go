package control

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"

	"github.com/nats-io/nats.go/jetstream"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"

	controlv1 "sluice/gen/sluice/control/v1"
	eventv1 "sluice/gen/sluice/event/v1"
	"sluice/libs/batch"
	"sluice/libs/checkpoint"
	"sluice/libs/fencedlog"
	"sluice/libs/fold"
	"sluice/libs/registry"
	"sluice/libs/spec"
)

// A change of a pipeline's lanes: ADR 13. The update puts another set of lanes into the record; the stages do the rest by themselves. Here the old set is
// taken out of the record once all of it is in the table, and its state is removed.

// changeLanes begins another set of lanes.
func changeLanes(rec *controlv1.PipelineRecord, lanes uint32) {
	current := spec.CurrentLanes(rec)
	if current.Count == int(lanes) {
		return
	}
	rec.LaneSets = []*controlv1.LaneSet{
		{First: uint32(current.First), Count: uint32(current.Count)},
		{First: uint32(current.First + current.Count), Count: lanes},
	}
}

// changingLanes refuses a change of lanes while another is under way: state is taken over from one set at a time.
func changingLanes(rec *controlv1.PipelineRecord, lanes uint32) error {
	before, ok := spec.LanesBefore(rec)
	if !ok || rec.GetSpec().GetLanes() == lanes {
		return nil
	}
	why := "the old ones still have something to write; try again"
	if rec.GetDesired() == controlv1.DesiredState_PAUSED {
		why = "the pipeline is paused, and the old ones end when it reads on; resume it, and try again"
	}
	return codef(codes.FailedPrecondition, "lanes: %d: the change from %d to %d lanes is not finished: %s when status no longer shows lanes %d to %d",
		lanes, before.Count, rec.GetSpec().GetLanes(), why, before.First, before.First+before.Count-1)
}

// retireLanes takes the set of lanes out of the record that another replaces, if it is drained.
func (s *Service) retireLanes(ctx context.Context, rec *controlv1.PipelineRecord) (done bool, err error) {
	before, ok := spec.LanesBefore(rec)
	if !ok {
		return true, nil
	}
	id := rec.GetSpec().GetId()
	drained, err := s.drained(ctx, rec, before)
	if err != nil || drained == nil {
		return false, err
	}
	next := proto.CloneOf(rec)
	next.LaneSets = next.LaneSets[len(next.LaneSets)-1:]
	next.Drained = drained
	touch(next)
	there, rev, err := s.registry.Get(ctx, id)
	if err != nil {
		return false, err
	}
	if !proto.Equal(there, rec) {
		return false, nil // of another moment: next time
	}
	if _, err := s.registry.Update(ctx, next, rev); err != nil {
		if errors.Is(err, registry.ErrConflict) {
			return false, nil
		}
		return false, err
	}
	s.log.Info("lanes changed: the old ones are drained", "pipeline", id, "from", before.Count, "to", spec.CurrentLanes(rec).Count)
	return true, nil
}

// drained returns what the lanes of earlier sets have counted, by stage, if the one before is drained and its state taken over; else nil.
func (s *Service) drained(ctx context.Context, rec *controlv1.PipelineRecord, before spec.LaneSet) (map[string]*eventv1.Tally, error) {
	p := rec.GetSpec()
	sums := map[string]*batch.Tally{}
	for stage, t := range rec.GetDrained() {
		sum := batch.TallyOf(t)
		sums[stage] = &sum
	}
	add := func(stage string, t *eventv1.Tally) {
		if sums[stage] == nil {
			sums[stage] = &batch.Tally{}
		}
		sums[stage].Add(batch.TallyOf(t))
	}
	stages := spec.Stages(p)
	for _, stage := range stages[1 : len(stages)-1] {
		cfg := checkpoint.Config{JS: s.js, Pipeline: p.GetId(), Stage: stage}
		left, open, err := checkpoint.LeftBy(ctx, cfg, before.Lanes())
		if err != nil || len(open) > 0 {
			return nil, err
		}
		for _, m := range left.Manifests() {
			add(stage, m.GetTally())
		}
		heirs, _, err := checkpoint.LeftBy(ctx, cfg, spec.CurrentLanes(rec).Lanes())
		if err != nil {
			return nil, err
		}
		if slices.ContainsFunc(heirs.Manifests(), func(m *eventv1.Manifest) bool { return !m.GetInherited() }) {
			return nil, nil
		}
	}
	if len(stages) == 2 { // the sink reads what the ingestor writes
		if over, err := fold.IngestOver(ctx, s.js, p.GetId(), before.First); err != nil || !over {
			return nil, err
		}
	}
	kv, err := s.js.KeyValue(ctx, checkpoint.Bucket(p.GetId()))
	if err != nil {
		return nil, fmt.Errorf("open the state bucket: %w", err)
	}
	log := fencedlog.Log{Pipeline: p.GetId(), Stage: spec.Upstream(p, spec.StageSink)}
	for _, lane := range before.Lanes() {
		// The order matters: nobody writes to the lane any more, and then its last message.
		last, err := fencedlog.LastOf(ctx, s.js, log, lane)
		if err != nil {
			return nil, err
		}
		position, _, err := positionOf(ctx, kv, lane)
		if err != nil {
			return nil, err
		}
		if position.GetPending() != nil || position.GetCoveredSequence() < last {
			return nil, nil
		}
		add(spec.StageSink, position.GetTally())
	}
	out := make(map[string]*eventv1.Tally, len(sums))
	for stage, sum := range sums {
		out[stage] = sum.Proto()
	}
	return out, nil
}

func positionOf(ctx context.Context, kv jetstream.KeyValue, lane int) (*eventv1.SinkPosition, uint64, error) {
	position := &eventv1.SinkPosition{}
	entry, err := kv.Get(ctx, checkpoint.PositionKey(lane))
	if errors.Is(err, jetstream.ErrKeyNotFound) {
		return position, 0, nil
	}
	if err == nil {
		err = proto.Unmarshal(entry.Value(), position)
	}
	if err != nil {
		return nil, 0, fmt.Errorf("read position %s: %w", checkpoint.PositionKey(lane), err)
	}
	return position, entry.Revision(), nil
}

// emptyLanes removes the state of lanes that the record no longer has, and their fences. What they have counted stays, for the audit. It may be done any
// number of times; done is false as long as fences are left that a reader has yet to pass.
func (s *Service) emptyLanes(ctx context.Context, rec *controlv1.PipelineRecord) (done bool, err error) {
	p, live := rec.GetSpec(), spec.LiveLanes(rec)
	if len(spec.EveryLane(rec)) == len(live) {
		return true, nil
	}
	kv, err := s.js.KeyValue(ctx, checkpoint.Bucket(p.GetId()))
	if err != nil {
		return false, fmt.Errorf("open the state bucket: %w", err)
	}
	stages := spec.Stages(p)
	var gone []string // writers of the stages' logs are named by their lanes
	for _, lane := range spec.EveryLane(rec) {
		if slices.Contains(live, lane) {
			continue
		}
		gone = append(gone, strconv.Itoa(lane))
		for _, stage := range stages[1 : len(stages)-1] {
			if err := checkpoint.Retire(ctx, checkpoint.Config{JS: s.js, Pipeline: p.GetId(), Stage: stage, Lane: lane}); err != nil {
				return false, err
			}
		}
		position, rev, err := positionOf(ctx, kv, lane)
		if err != nil {
			return false, err
		}
		if rev == 0 || position.GetClosed() {
			continue
		}
		// By somebody else than whoever believes to own the lane: that one writes no more.
		position.Closed, position.Owner, position.Session = true, "control", rand.Text()
		value, err := proto.Marshal(position)
		if err != nil {
			return false, fmt.Errorf("encode position %s: %w", checkpoint.PositionKey(lane), err)
		}
		if _, err := kv.Update(ctx, checkpoint.PositionKey(lane), value, rev); err != nil {
			return false, fmt.Errorf("close position %s: %w", checkpoint.PositionKey(lane), err)
		}
	}
	// Only now: a lane whose fence is gone and that does not say that it is retired would look as if its log had lost its tail.
	done = true
	for i, stage := range stages[1 : len(stages)-1] {
		read, err := s.readBy(ctx, p.GetId(), stages[i+2], live)
		if err != nil {
			return false, err
		}
		all, err := fencedlog.Retire(ctx, s.js, fencedlog.Log{Pipeline: p.GetId(), Stage: stage}, gone, read)
		if err != nil {
			return false, err
		}
		done = done && all
	}
	return done, nil
}

// readBy tells up to where every lane of a stage has read its log for good.
func (s *Service) readBy(ctx context.Context, pipeline, stage string, lanes []int) (uint64, error) {
	if stage != spec.StageSink {
		return checkpoint.Lowest(ctx, s.js, pipeline, stage, lanes)
	}
	lowest := uint64(math.MaxUint64)
	for _, lane := range lanes {
		r, err := checkpoint.ReachedBy(ctx, s.js, pipeline, stage, lane)
		if err != nil {
			return 0, err
		}
		lowest = min(lowest, r.Sequence)
	}
	return lowest, nil
}
