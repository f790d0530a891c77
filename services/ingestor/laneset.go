package ingestor

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"google.golang.org/protobuf/proto"

	controlv1 "sluice/gen/sluice/control/v1"
	eventv1 "sluice/gen/sluice/event/v1"
	"sluice/libs/checkpoint"
	"sluice/libs/fencedlog"
	"sluice/libs/lanes"
	"sluice/libs/rows"
	"sluice/libs/spec"
)

// How a writer changes over to another set of lanes: ADR 13.
//
// Lanes of the set before may be ahead of the settled position, each by as much as it likes. Their records must not go into the new lanes as well. So the
// first thing that a writer does in the new set, before it appends anything there, is to settle a position that names the new set and says how far the
// lanes of the old one have come. Records below that are theirs; once all have gone by, the old set is forgotten.

// errOldRecord says that the record that this instance has is older than what another one works by.
var errOldRecord = errors.New("the pipeline's lanes have been changed: waiting for its new record")

// laneSets are the set that takes new events and the one that it replaces, if that is still being drained.
type laneSets struct {
	current spec.LaneSet
	before  spec.LaneSet // Count 0: none
}

func laneSetsOf(rec *controlv1.PipelineRecord) laneSets {
	s := laneSets{current: spec.CurrentLanes(rec)}
	s.before, _ = spec.LanesBefore(rec)
	return s
}

// lanes are all of them.
func (s laneSets) lanes() []int { return append(s.before.Lanes(), s.current.Lanes()...) }

// written is the first lane of the set that a writer has written into last, or why it cannot go on in the current one. settled is what its fence says, if
// it ever settled anything.
func (s laneSets) written(ever bool, settled *eventv1.IngestPosition) (from int, err error) {
	from = int(settled.GetLanesFrom())
	switch {
	case from > s.current.First:
		return 0, errOldRecord
	case from == s.current.First:
		return from, nil
	case s.before.Count > 0 && (from == s.before.First || !ever):
		return s.before.First, nil
	case !ever: // nor has it written anything, or the set before would not have been found drained
		return s.current.First, nil
	}
	return 0, fmt.Errorf("%w: its fence is of before the lanes were changed (they began with %d, now with %d): what was written since then is unknown; "+
		"put a later copy of the log back, or delete the pipeline and create it anew", fencedlog.ErrTailLost, from, s.current.First)
}

// notBehind tells why this instance must not go on from a fence that was written by a later record than its own.
func (s *session) notBehind(ctx context.Context, body []byte) error {
	var settled eventv1.IngestPosition
	if err := proto.Unmarshal(body, &settled); err != nil {
		return fmt.Errorf("read the settled position: %w", err)
	}
	return lanes.NotBehind(s.service.registry, s.rec)(ctx, settled.GetGeneration())
}

// before is what lanes of the set before have beyond the position.
type before struct {
	first   int     // lane
	offsets []int64 // by lane: records below are in that lane's log; empty: nothing that matters
}

func (b before) highest() int64 {
	if len(b.offsets) == 0 {
		return 0
	}
	return slices.Max(b.offsets)
}

// cut forgets what the lanes had at offsets that are given out again.
func (b before) cut(end int64) {
	for i := range b.offsets {
		b.offsets[i] = min(b.offsets[i], end)
	}
}

// has tells whether the set before has a record.
func (b before) has(row rows.Row, plan *rows.Plan, key []byte, partition int32, offset int64) bool {
	return len(b.offsets) > 0 && offset < b.offsets[plan.Lane(row, key, partition, len(b.offsets))]
}

// recoverBefore finds what lanes of the set before have: the fence says it if the writer has changed over before, else their last messages do.
func (p position) recoverBefore(settled *eventv1.IngestPosition, sets laneSets, log fencedlog.Recovered) (before, error) {
	if !p.changed {
		if p.fresh || len(settled.GetBeforeOffsets()) == 0 { // fresh: of other offsets
			return before{}, nil
		}
		return before{int(settled.GetBeforeFrom()), slices.Clone(settled.GetBeforeOffsets())}, nil
	}
	b := before{first: sets.before.First, offsets: make([]int64, sets.before.Count)}
	for i, lane := range sets.before.Lanes() {
		var err error
		if b.offsets[i], err = p.advanced(log.Last[lane].Position); err != nil {
			return before{}, err
		}
	}
	if b.highest() <= p.next {
		return before{}, nil
	}
	return b, nil
}

// sameLanes makes sure that the record of this session is not older than the one that the registry has by now. Asked after the fence was taken: whoever
// finds a set drained after the record was changed either sees that fence, or we see the change.
func (s *session) sameLanes(ctx context.Context) error {
	same, err := lanes.Same(s.service.registry, s.rec)(ctx)
	if err == nil && !same {
		err = errOldRecord
	}
	return err
}

// intact makes sure, before a writer goes over, that the log still has what the lanes of the set before have read. What it has lost of that would be read from
// Kafka again, and go into new lanes, where nobody knows which of it was taken. The stage may make good for it by itself, and then this passes; else the
// writer waits for good, as those lanes do. It need not where the keys of all that was taken are known to the new lanes.
func (s *session) intact(ctx context.Context, sets laneSets) error {
	p := s.rec.GetSpec()
	js, log, stage := s.service.deps.JS, fencedlog.Log{Pipeline: p.GetId(), Stage: fencedlog.Ingest}, spec.Stages(p)[1]
	if stage == spec.StageSink {
		return nil // it looks what is in the table: ADR 11
	}
	left, open, err := checkpoint.LeftBy(ctx, checkpoint.Config{JS: js, Pipeline: p.GetId(), Stage: stage}, sets.before.Lanes())
	if errors.Is(err, jetstream.ErrBucketNotFound) {
		return nil // nobody has read anything
	}
	if err != nil {
		return err
	}
	forgetful := func(b spec.Branch) bool { return b.Dedup == nil }
	if len(open) == 0 && !slices.ContainsFunc(spec.Branches(p), forgetful) {
		return nil
	}
	var marks []fencedlog.Mark
	for _, m := range left.Manifests() {
		marks = append(marks, fencedlog.Mark{Sequence: m.GetCoveredSequence(), Time: time.Unix(0, m.GetCoveredTimeNs())})
	}
	if err := fencedlog.VerifyAll(ctx, js, log, marks); err != nil {
		return fmt.Errorf("while the lanes are changed: %w; if this stays so, put a later copy of the log back, or delete the pipeline and create it anew", err)
	}
	return nil
}

// takeGone takes the writers of partitions that the topic does not have (any more) over to the current set: nobody else would, and as long as one has not gone
// over the set before is not drained. It is the task of whoever has partition 0.
func (s *session) takeGone(ctx context.Context, topic string, partitions int, id topicID, sets laneSets) error {
	if sets.before.Count == 0 {
		return nil
	}
	js, log := s.service.deps.JS, fencedlog.Log{Pipeline: s.rec.GetSpec().GetId(), Stage: fencedlog.Ingest}
	fences, err := fencedlog.Fences(ctx, js, log)
	if err != nil {
		return err
	}
	for name, body := range fences {
		number, err := strconv.ParseInt(name[strings.LastIndexByte(name, '-')+1:], 10, 32)
		if err != nil || name != fencedlog.IngestWriter(s.branch.Source, int32(number)) || int(number) < partitions {
			continue
		}
		var settled eventv1.IngestPosition
		if proto.Unmarshal(body, &settled) == nil && int(settled.GetLanesFrom()) == sets.current.First {
			continue
		}
		if err := s.intact(ctx, sets); err != nil {
			return err
		}
		// As in a claim: should it be there after all, whoever claims it finds what its lanes have.
		writer, recovered, err := fencedlog.Open(ctx, js, log, name, fencedlog.Options{Lanes: sets.lanes()})
		if err != nil {
			return err
		}
		if err := s.sameLanes(ctx); err != nil {
			return err
		}
		pos, err := recoverPosition(id, 0, sets, recovered, "")
		if err != nil {
			return err
		}
		pos.generation = s.rec.GetGeneration()
		if err := settlePosition(ctx, writer, pos, topic, int32(number)); err != nil {
			return err
		}
	}
	return nil
}
