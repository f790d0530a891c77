package sink

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"time"

	"google.golang.org/protobuf/proto"

	eventv1 "sluice/gen/sluice/event/v1"
	"sluice/libs/batch"
	"sluice/libs/clickhouse"
	"sluice/libs/fencedlog"
	"sluice/libs/receipts"
	"sluice/services/sink/internal/block"
)

// A position that was put back to an earlier one while no sink ran, alone or with the whole store, looks as any other. Who remembers is
// outside of it: the receipts of blocks, which are in a stream of their own; the lane's own word in the logs that its rows came through; and the offsets that the ingestor had committed to
// Kafka, which it holds against what its log says when it starts (IngestPosition.seen_offset). From then on the lane does not believe that what it is
// to send is not in the table, until it has seen that.

// suspicion is why rows that come next may be in the table. It ends when the lane is beyond the offsets. Where the log is still the one that was read it ends with the first block
// none of whose rows is there: what a sink has sent is a beginning of that. Of a log that was filled again it need not be one: its lanes may be others than those of before, of
// which some were further than others.
type suspicion struct {
	why string
	// upTo is the sequence up to which all is in the table, since the log is the one that the lane had read when it was further; 0: it is not, or nobody knows.
	upTo uint64
	// offsets, by partition, are those from which on nothing had been read before.
	offsets map[int32]int64
	writers map[string]int64 // the same by writer of the ingest log, while it is being looked for
	// joined are those of a join's two sides. Its rows come again in any order, so that nobody can tell when the last of them has come: rows all of
	// whose records are below are looked for as long as any come.
	joined joinedOffsets
	again  joinedOffsets // the same of rows that are counted: see beginAnew
	found  uint64        // rows that were in the table
	clean  bool          // none of the present block's is
}

// suspect looks for a witness that the position was further once. What is found is in the position before anything is sent: the witness may not be heard again.
func (l *lane) suspect(ctx context.Context) error {
	s := l.suspicion // said before
	if s == nil {
		s = &suspicion{offsets: map[int32]int64{}}
	}
	found := suspicion{offsets: map[int32]int64{}, writers: map[string]int64{}}
	if err := l.reread(ctx, &found); err != nil {
		return err
	}
	if err := l.receipts(ctx, &found); err != nil {
		return err
	}
	s.joined, l.noted = found.joined, found.writers
	l.suspectAgain(s, found.why != "")
	if found.why == "" {
		if s.why == "" && s.joined.any() {
			s.why = "the store went back once"
		}
		if s.why != "" {
			l.suspicion = s
		}
		return nil
	}
	s.merge(&found)
	if s.upTo == 0 {
		// Sequences have begun anew, or may have: what was named by them before, and after an earlier loss, must not be taken for what they name now.
		last, err := l.lastLetter(ctx)
		if err != nil {
			return err
		}
		l.epoch = max(l.epoch, last.epoch) + 1
	}
	// What a sink of then has still running would come into the table after we have looked.
	if err := l.endAll(ctx); err != nil {
		return err
	}
	l.log.Warn("the lane's position was further once: what is in the table is left out", "lane", l.index, "reason", s.why)
	l.suspicion = s
	l.heal(s.why + "; rows that the table has are left out")
	return l.write(ctx, l.pos.stored.GetPending())
}

// suspectStill asks again, of a lane that was taken while Kafka did not answer, before a block is sent: the ingestor writes down what it finds before it
// reads anything.
func (l *lane) suspectStill(ctx context.Context) error {
	if !l.unsure {
		return nil
	}
	found := suspicion{offsets: map[int32]int64{}, writers: map[string]int64{}}
	if err := l.reread(ctx, &found); err != nil || found.why == "" {
		return err
	}
	if err := l.suspect(ctx); err != nil {
		return err
	}
	return fmt.Errorf("%s: taking the lane anew", l.suspicion.why)
}

// because adds a reason.
func (s *suspicion) because(why string) {
	if s.why != "" {
		why = s.why + "; " + why
	}
	s.why = why
}

// merge takes over what was found now.
func (s *suspicion) merge(found *suspicion) {
	for partition, offset := range found.offsets {
		s.offsets[partition] = max(s.offsets[partition], offset)
	}
	s.why, s.upTo = found.why, found.upTo
}

// suspicionOf is what a position has kept. Nil of nil.
func suspicionOf(p *eventv1.Suspicion) *suspicion {
	if p == nil {
		return nil
	}
	s := &suspicion{why: p.GetWhy(), upTo: p.GetUpTo(), offsets: map[int32]int64{}}
	maps.Copy(s.offsets, p.GetOffsets())
	return s
}

// proto is what the position keeps. Nil of nil.
func (s *suspicion) proto() *eventv1.Suspicion {
	if s == nil {
		return nil
	}
	return &eventv1.Suspicion{Why: s.why, UpTo: s.upTo, Offsets: maps.Clone(s.offsets)}
}

// receipts looks whether blocks were sent beyond the position, and which was delivered last.
func (l *lane) receipts(ctx context.Context, s *suspicion) error {
	last, receipted, err := l.lastSent(ctx)
	if err != nil {
		return err
	}
	l.delivered = ""
	if last.GetRefused() == 0 {
		l.delivered = last.GetToken()
	}
	known := l.covered
	if p := l.pos.stored.GetPending(); p.GetEpoch() == l.epoch {
		known = max(known, p.GetLastSequence())
	}
	if !l.beyond(last, known) {
		return nil
	}
	s.because(fmt.Sprintf("the position of lane %d went back: it says sequence %d, and blocks up to sequence %d were sent", l.index, l.covered, last.GetLastSequence()))
	if last.GetEpoch() == l.epoch && last.GetLastTimeNs() != 0 {
		err := fencedlog.Verify(ctx, l.js, l.upstream, last.GetLastSequence(), time.Unix(0, last.GetLastTimeNs()))
		if err == nil {
			s.upTo = last.GetLastSequence()
			return nil
		}
		if !errors.Is(err, fencedlog.ErrTailLost) {
			return err
		}
	}
	s.why += ", of messages that the log has lost since"
	l.epoch = max(l.epoch, last.GetEpoch())
	if !receipted || l.record.GetSpec().GetJoin() != nil {
		// Nobody tells which records they were made of: of some that were read by now.
		return l.readByNow(ctx, s)
	}
	return receipts.Each(ctx, l.js, l.upstream.Pipeline, l.index, func(r *eventv1.Receipt, _ uint64) bool {
		if !l.beyond(r, 0) {
			return true
		}
		l.epoch = max(l.epoch, r.GetEpoch())
		for _, b := range r.GetBatches() {
			s.offsets[b.GetPartition()] = max(s.offsets[b.GetPartition()], b.GetLastOffset()+1+uncommitted)
		}
		return true
	})
}

// readByNow takes all records that were read by now for such as may be in the table.
func (l *lane) readByNow(ctx context.Context, s *suspicion) error {
	if l.record.GetSpec().GetJoin() != nil {
		if err := l.allRead(ctx); err != nil {
			return err
		}
		return l.rereadJoin(ctx, s)
	}
	fences, err := l.seen(ctx)
	if err != nil {
		return err
	}
	for _, at := range fences {
		s.offsets[at.GetPartition()] = max(s.offsets[at.GetPartition()], at.GetNextOffset(), at.GetSeenEnd(), at.GetSeenOffset())
	}
	return nil
}

// widen makes a suspicion that goes by sequences go by offsets: the log has lost its tail, and its sequences are no more.
func (l *lane) widen(ctx context.Context) error {
	s := l.suspicion
	if s == nil || s.upTo == 0 {
		return nil
	}
	s.upTo = 0
	return l.readByNow(ctx, s)
}

// beyond tells whether a receipt is of a block of this lane that was sent after what is known.
func (l *lane) beyond(r *eventv1.Receipt, known uint64) bool {
	if !l.ours(r) {
		return false
	}
	return r.GetEpoch() > l.pos.stored.GetEpoch() || r.GetEpoch() == l.pos.stored.GetEpoch() && r.GetLastSequence() > known
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
	for writer, at := range fences {
		from := have.Next(at.GetPartition(), at.GetTopicId())
		if at.GetSeenOffset() <= max(from, l.noted[writer]) {
			continue
		}
		s.why = fmt.Sprintf("the store went back: partition %d of %s had been read up to offset %d, and lane %d has it up to %d",
			at.GetPartition(), at.GetTopic(), at.GetSeenOffset()-1, l.index, from-1)
		bound := max(at.GetSeenEnd(), at.GetSeenOffset())
		if at.GetSeenEnd() == 0 { // of an earlier version
			bound += uncommitted
		}
		// Of blocks that were sent more may be known.
		s.offsets[at.GetPartition()] = max(s.offsets[at.GetPartition()], bound)
		s.writers[writer] = at.GetSeenOffset()
	}
	if len(s.offsets) > 0 && p.GetDedup() == nil {
		s.because("without dedup, a row that equals another in all columns counts as that")
	}
	return nil
}

// begin is called for each block.
func (s *suspicion) begin() { s.clean = true }

// end is called when a block is done, and tells whether the suspicion is over.
func (s *suspicion) end(first uint64, groups []*group) bool {
	if s.joins() {
		return false
	}
	known := len(s.offsets) > 0
	for _, g := range groups {
		for _, r := range g.account.runs {
			if bound, ok := s.offsets[r.partition]; ok && r.last >= bound {
				delete(s.offsets, r.partition)
			}
		}
	}
	beyond := s.clean && first > s.upTo
	if s.upTo > 0 {
		if !beyond {
			return false
		}
		s.upTo = 0
		return len(s.offsets) == 0
	}
	return len(s.offsets) == 0 && (known || beyond)
}

// concerns tells whether any row of a range may be in the table.
func (s *suspicion) concerns(g *group, r block.Range) bool {
	if s.upTo > 0 || len(s.offsets) == 0 {
		return true // nobody knows how far it was
	}
	from := 0
	for _, run := range g.account.runs {
		inside := from < r.To && run.end > r.From
		if bound, ok := s.offsets[run.partition]; ok && inside && run.first < bound {
			return true
		}
		from = run.end
	}
	return false
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
		if s.missing(err) {
			return nil, errGone
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
	if w.joins() {
		return s.siftJoined(g, r, what, d)
	}
	if !w.concerns(g, r) {
		return false, nil
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
	return s.leave(g, r, lacks, what, d)
}

// leave leaves some rows of the range in what is to be inserted. done: there are none.
func (s *sending) leave(g *group, r block.Range, rows []int, what *clickhouse.Insert, d *doubt) (done bool, err error) {
	if len(rows) == 0 {
		return true, nil
	}
	if what.Columns, err = s.kept(g, r.From, rows); err != nil {
		return false, err
	}
	what.Token += "/lacking"
	d.rows = rows
	return false, nil
}

// siftAgain is sift when nobody knows what became of an attempt: the table is asked anyway, so that it need not remember a token. What the attempt has left does not count
// as found.
func (s *sending) siftAgain(g *group, r block.Range, what *clickhouse.Insert, d *doubt) (done bool, err error) {
	w := s.lane.suspicion
	if err := s.lane.endQuery(s.working, what.QueryID, s.pause); err != nil {
		return false, err
	}
	found, clean := w.found, w.clean
	defer func() { w.found, w.clean = found, clean }()
	d.rows = nil
	return s.sift(g, r, what, d)
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
