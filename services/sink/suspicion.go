package sink

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"google.golang.org/protobuf/proto"

	eventv1 "sluice/gen/sluice/event/v1"
	"sluice/libs/batch"
	"sluice/libs/clickhouse"
	"sluice/libs/fencedlog"
	"sluice/libs/kafka"
	"sluice/libs/receipts"
	"sluice/libs/spec"
	"sluice/services/sink/internal/block"
)

// A position that was put back to an earlier one while no sink ran, alone or with the whole store, looks as any other. Who remembers is
// outside of it: the receipts of blocks, which are in a stream of their own, and the offsets that the ingestor had committed to Kafka, which it
// holds against what its log says when it starts (IngestPosition.seen_offset). From then on the lane does not believe that what it is
// to send is not in the table, until it has seen that.

// suspicion is why rows that come next may be in the table. It ends with the first block that is beyond it and none of whose rows is there: what a
// sink has sent is a beginning of the lane's log, and of each partition in it.
type suspicion struct {
	why string
	// upTo is the sequence up to which a receipt says that all is in the table; 0: there is none.
	upTo uint64
	// offsets, by partition, are where it had been read to before.
	offsets map[int32]int64
	found   uint64 // rows that were in the table
	clean   bool   // none of the present block's is
}

// suspect looks for a witness that the position was further once.
func (l *lane) suspect(ctx context.Context) error {
	s := &suspicion{offsets: map[int32]int64{}}
	last, err := receipts.Last(ctx, l.js, l.upstream.Pipeline, l.index)
	if err != nil {
		return err
	}
	known := l.covered
	if p := l.pos.stored.GetPending(); p.GetEpoch() == l.epoch {
		known = max(known, p.GetLastSequence())
	}
	if last.GetLastSequence() > known && last.GetToken() == l.name(l.epoch, last.GetFirstSequence(), last.GetLastSequence()).Token() {
		s.upTo = last.GetLastSequence()
		s.why = fmt.Sprintf("the position of lane %d went back: it says sequence %d, and blocks up to sequence %d are in the table",
			l.index, l.covered, s.upTo)
	}
	if err := l.reread(ctx, s); err != nil {
		return err
	}
	if s.why == "" {
		return nil
	}
	l.log.Warn("the lane's position was further once: what is in the table is left out", "lane", l.index, "reason", s.why)
	l.suspicion = s
	l.heal(s.why + "; rows that the table has are left out")
	return nil
}

// reread looks whether the ingestor has found that its log had been further than it is, beyond what this lane has.
func (l *lane) reread(ctx context.Context, s *suspicion) error {
	p := l.record.GetSpec()
	have, err := batch.TakenOf(l.taken.taken)
	if err != nil {
		return err
	}
	ingest := fencedlog.Log{Pipeline: p.GetId(), Stage: fencedlog.Ingest}
	committed := l.committed(ctx)
	// Only now: the ingestor writes down what it finds before the group's offset goes back.
	fences, err := fencedlog.Fences(ctx, l.js, ingest)
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	for writer, body := range fences {
		var at eventv1.IngestPosition
		if err := proto.Unmarshal(body, &at); err != nil {
			return fmt.Errorf("fence of %s in %s: %w", writer, ingest.Stream(), err)
		}
		if offset := committed(at.GetTopic(), at.GetPartition()); offset > at.GetNextOffset() && offset > at.GetSeenOffset() {
			at.SeenOffset = offset
		}
		if at.GetSeenOffset() == 0 || have.Next(at.GetPartition(), at.GetTopicId()) >= at.GetSeenOffset() {
			continue
		}
		from := have.Next(at.GetPartition(), at.GetTopicId())
		s.why = fmt.Sprintf("the store went back: partition %d of %s had been read up to offset %d, and lane %d has it up to %d",
			at.GetPartition(), at.GetTopic(), at.GetSeenOffset()-1, l.index, from-1)
		if p.GetJoin() != nil {
			continue // in which order its rows come again nobody knows: there is no telling when it is over
		}
		s.offsets[at.GetPartition()] = at.GetSeenOffset()
	}
	switch {
	case len(s.offsets) == 0 && s.why != "" && s.upTo == 0:
		l.heal(s.why + "; if the position of the lane went back with it, rows of the join are in the table twice, which sluice verify tells")
		l.log.Warn("the lane's position may have been further once", "lane", l.index, "reason", s.why)
		s.why = ""
	case len(s.offsets) > 0 && p.GetDedup() == nil:
		s.why += "; without dedup, a row that equals another in all columns counts as that"
	}
	return nil
}

// committed returns what the pipeline's groups have committed to Kafka, as far as that can be told within a while.
func (l *lane) committed(ctx context.Context) func(topic string, partition int32) int64 {
	ctx, cancel := context.WithTimeout(ctx, committedTimeout)
	defer cancel()
	found := map[string]map[int32]int64{}
	for _, b := range spec.Branches(l.record.GetSpec()) {
		at := b.Spec.GetKafka()
		cluster, err := kafka.Open(ctx, at, "sluice-sink-"+l.record.GetSpec().GetId())
		if err == nil {
			found[at.GetTopic()], err = cluster.CommittedOffsets(ctx, at.GetGroup(), at.GetTopic())
			cluster.Close()
		}
		if err != nil {
			l.log.Debug("what was committed to Kafka cannot be told", "topic", at.GetTopic(), "error", err)
		}
	}
	return func(topic string, partition int32) int64 { return found[topic][partition] }
}

// committedTimeout bounds what a lane waits for Kafka when it is taken: it works without.
const committedTimeout = 5 * time.Second

// begin is called for each block.
func (s *suspicion) begin() { s.clean = true }

// end is called when a block is done, and tells whether the suspicion is over.
func (s *suspicion) end(first uint64, groups []*group) bool {
	if !s.clean || first <= s.upTo {
		return false
	}
	for _, g := range groups {
		for _, r := range g.account.runs {
			delete(s.offsets, r.partition)
		}
	}
	return len(s.offsets) == 0
}

// sift leaves in what is to be inserted those rows that the table does not hold. done: it holds all of them.
func (s *sending) sift(g *group, r block.Range, what *clickhouse.Insert, d *doubt) (done bool, err error) {
	w := s.lane.suspicion
	if w.upTo >= s.pending.GetLastSequence() {
		w.clean, w.found = false, w.found+uint64(r.Rows())
		return true, nil
	}
	var lacks []int
	for backoff := s.lane.pace.first; ; backoff = min(2*backoff, s.lane.pace.last) {
		lacks, err = s.lane.inserter.Absent(s.working, *what)
		if err == nil {
			break
		}
		if errors.Is(err, clickhouse.ErrCannotTell) {
			return false, fmt.Errorf("%s; which rows of sequences %d to %d are there cannot be told: %w", w.why, s.pending.GetFirstSequence(), s.pending.GetLastSequence(), err)
		}
		s.lane.trouble.sending(fmt.Errorf("%s: %w", w.why, err))
		if err := s.pause(backoff); err != nil {
			return false, err
		}
	}
	s.lane.trouble.sending(nil)
	found := r.Rows() - len(lacks)
	if found == 0 {
		return false, nil
	}
	w.clean, w.found = false, w.found+uint64(found)
	if len(lacks) == 0 {
		return true, nil
	}
	keep := make([]byte, (g.Rows+7)/8)
	for _, row := range lacks {
		at := r.From + row
		keep[at/8] |= 1 << (at % 8)
	}
	if what.Columns, err = g.kept(s.layout, keep); err != nil {
		return false, err
	}
	what.Token += "/lacking"
	d.rows = lacks
	return false, nil
}

// settleSuspicion counts what was left out of a block, and ends the suspicion when it is over.
func (l *lane) settleSuspicion(s *sending, first uint64) {
	w := l.suspicion
	if w == nil {
		return
	}
	if w.found > 0 {
		healed := &eventv1.Healing{}
		proto.Merge(healed, l.healed)
		healed.Rows += w.found
		l.healed, w.found = healed, 0
	}
	if w.end(first, s.groups) {
		l.suspicion = nil
		l.log.Info("the lane is beyond what the table had", "lane", l.index, "rows", l.healed.GetRows())
	}
}
