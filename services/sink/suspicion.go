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
	// joined are those of a join's two sides. Its rows come again in any order, so that nobody can tell when the last of them has come: rows all of
	// whose records are below are looked for as long as any come.
	joined joinedOffsets
	found  uint64 // rows that were in the table
	clean  bool   // none of the present block's is
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
		if s.joined.any() { // said before
			s.why = "the store went back once"
			l.suspicion = s
		}
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
	if p.GetJoin() != nil {
		return l.rereadJoin(ctx, s)
	}
	have, err := batch.TakenOf(l.taken.taken)
	if err != nil {
		return err
	}
	fences, err := l.seen(ctx)
	if err != nil {
		return err
	}
	for _, at := range fences {
		if at.GetSeenOffset() == 0 || have.Next(at.GetPartition(), at.GetTopicId()) >= at.GetSeenOffset() {
			continue
		}
		from := have.Next(at.GetPartition(), at.GetTopicId())
		s.why = fmt.Sprintf("the store went back: partition %d of %s had been read up to offset %d, and lane %d has it up to %d",
			at.GetPartition(), at.GetTopic(), at.GetSeenOffset()-1, l.index, from-1)
		s.offsets[at.GetPartition()] = at.GetSeenOffset()
	}
	if len(s.offsets) > 0 && p.GetDedup() == nil {
		s.why += "; without dedup, a row that equals another in all columns counts as that"
	}
	return nil
}

// seen returns the ingestor's positions by writer, with how far each had been before the log went back, as the fence or Kafka's group says.
func (l *lane) seen(ctx context.Context) (map[string]*eventv1.IngestPosition, error) {
	ingest := fencedlog.Log{Pipeline: l.upstream.Pipeline, Stage: fencedlog.Ingest}
	committed := l.committed(ctx)
	// Only now: the ingestor writes down what it finds before the group's offset goes back.
	fences, err := fencedlog.Fences(ctx, l.js, ingest)
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	out := map[string]*eventv1.IngestPosition{}
	for writer, body := range fences {
		at := &eventv1.IngestPosition{}
		if err := proto.Unmarshal(body, at); err != nil {
			return nil, fmt.Errorf("fence of %s in %s: %w", writer, ingest.Stream(), err)
		}
		if offset := committed(writer); offset > at.GetNextOffset() && offset > at.GetSeenOffset() {
			at.SeenOffset = offset
		}
		out[writer] = at
	}
	return out, nil
}

// committed returns what the pipeline's groups have committed to Kafka, by writer of the ingest log, as far as that can be told within a while.
func (l *lane) committed(ctx context.Context) func(writer string) int64 {
	ctx, cancel := context.WithTimeout(ctx, committedTimeout)
	defer cancel()
	found := map[string]int64{}
	for _, b := range spec.Branches(l.record.GetSpec()) {
		at := b.Spec.GetKafka()
		cluster, err := kafka.Open(ctx, at, "sluice-sink-"+l.record.GetSpec().GetId())
		if err == nil {
			var offsets map[int32]int64
			offsets, err = cluster.CommittedOffsets(ctx, at.GetGroup(), at.GetTopic())
			cluster.Close()
			for partition, offset := range offsets {
				found[fencedlog.IngestWriter(b.Source, partition)] = offset
			}
		}
		if err != nil {
			l.log.Debug("what was committed to Kafka cannot be told", "topic", at.GetTopic(), "error", err)
		}
	}
	return func(writer string) int64 { return found[writer] }
}

// committedTimeout bounds what a lane waits for Kafka when it is taken: it works without.
const committedTimeout = 5 * time.Second

// begin is called for each block.
func (s *suspicion) begin() { s.clean = true }

// end is called when a block is done, and tells whether the suspicion is over.
func (s *suspicion) end(first uint64, groups []*group) bool {
	if s.joined.any() || !s.clean || first <= s.upTo {
		return false
	}
	for _, g := range groups {
		for _, r := range g.account.runs {
			delete(s.offsets, r.partition)
		}
	}
	return len(s.offsets) == 0
}

// absent asks the table which rows it does not hold, for as long as it takes.
func (s *sending) absent(what clickhouse.Insert) (lacks []int, err error) {
	w := s.lane.suspicion
	for backoff := s.lane.pace.first; ; backoff = min(2*backoff, s.lane.pace.last) {
		lacks, err = s.lane.inserter.Absent(s.working, what)
		if err == nil {
			s.lane.trouble.sending(nil)
			return lacks, nil
		}
		if errors.Is(err, clickhouse.ErrCannotTell) {
			return nil, fmt.Errorf("%s; which rows of sequences %d to %d are there cannot be told: %w", w.why, s.pending.GetFirstSequence(), s.pending.GetLastSequence(), err)
		}
		s.lane.trouble.sending(fmt.Errorf("%s: %w", w.why, err))
		if err := s.pause(backoff); err != nil {
			return nil, err
		}
	}
}

// sift leaves in what is to be inserted those rows that the table does not hold. done: it holds all of them.
func (s *sending) sift(g *group, r block.Range, what *clickhouse.Insert, d *doubt) (done bool, err error) {
	w := s.lane.suspicion
	if w.upTo >= s.pending.GetLastSequence() {
		w.clean, w.found = false, w.found+uint64(r.Rows())
		return true, nil
	}
	if w.joined.any() {
		return s.siftJoined(g, r, what, d)
	}
	lacks, err := s.absent(*what)
	if err != nil {
		return false, err
	}
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
