package sink

import (
	"context"
	"fmt"
	"maps"
	"math/bits"
	"strconv"
	"strings"

	eventv1 "sluice/gen/sluice/event/v1"
	"sluice/libs/batch"
	"sluice/libs/fencedlog"
	"sluice/libs/fold"
	"sluice/libs/spec"
	"sluice/services/sink/internal/block"
)

// When a join's log and the log before it have both lost their tails, the join does not know what it had put out of what it reads again, in another order. It puts
// that out again, and its messages need not be those that this lane has had. Each says which one it follows, so the lane finds out before it takes any of them:
// see fold.Broken. From then on rows may be in the table that are made of records which the join had taken by the last message that the lane has had: each of those is looked for,
// as when the whole store went back. But here the position is as it was, and what is found is counted already.

// putOutAgain is why rows are looked for.
const putOutAgain = "the join puts out again what it had put out before"

// maxLooked bounds the rows of a block of which it is noted which were counted.
const maxLooked = 1 << 22

// beginAnew makes durable that rows may come again that the lane has had behind a snapshot. A crash before this finds the same message that does not follow, a
// crash after it a lane that looks. All that was sent is in the table, but for a block in doubt whose messages are lost: nobody sends it any more, and what it has
// left in the table is found like the rest, though it is not told that it is not counted.
func (l *lane) beginAnew(ctx context.Context, from snapshot, abandoned bool) error {
	had, err := batch.TakenOf(l.joined)
	if err != nil {
		return fmt.Errorf("the lane's position: %w", err)
	}
	if abandoned {
		more, err := batch.TakenOf(l.pos.stored.GetPending().GetJoined())
		if err != nil {
			return fmt.Errorf("the lane's position: %w", err)
		}
		had.Add(more)
	}
	again := maps.Clone(l.againOffsets)
	if again == nil {
		again = map[string]int64{}
	}
	for _, a := range had.Ahead(batch.NewTaken()) {
		writer := fencedlog.IngestWriter(a.Source, a.Partition)
		again[writer] = max(again[writer], a.Next)
	}
	if err := l.allTaken(ctx, again); err != nil {
		return err
	}
	if l.ledger != nil && (abandoned || len(l.seenOffsets) > 0) {
		l.forgetLedger()
	}
	l.againOffsets, l.taken = again, from
	if l.suspicion == nil {
		l.suspicion = &suspicion{offsets: map[int32]int64{}}
	}
	l.suspicion.upTo = 0
	l.suspectAgain(l.suspicion, false)
	what := fmt.Sprintf("%s has lost its tail, and what it was made of, too: %s, in another order. Lane %d had more of it; rows that the table has are left out, and a row that equals another in all columns counts as that",
		l.upstream.Stream(), putOutAgain, l.index)
	l.heal(what)
	l.log.Warn("the join puts out again what the lane has had: it is looked what the table has", "lane", l.index, "stream", l.upstream.Stream())
	return l.write(ctx, nil)
}

// allTaken adds how far all records have been read, where what the join says of what it has taken does not tell of all: it goes on with rows of other lanes, or an earlier version
// has put out what the lane has had.
func (l *lane) allTaken(ctx context.Context, again map[string]int64) error {
	all := spec.CurrentLanes(l.record).First > 0
	for writer := range l.taken.positions {
		all = all || l.taken.made[writer] == 0
	}
	if !all {
		return nil
	}
	read, err := fold.IngestPositions(ctx, l.js, l.upstream.Pipeline)
	if err != nil {
		return err
	}
	for writer, at := range read {
		again[writer] = max(again[writer], at.GetNextOffset(), at.GetSeenOffset()) + uncommitted
	}
	return nil
}

// suspectAgain makes the suspicion what the position says of rows that the join puts out again. wentBack: the position went back, so that some of what is found was counted, and
// some was not.
func (l *lane) suspectAgain(s *suspicion, wentBack bool) {
	s.again = joinedOffsets{}
	for _, b := range spec.Branches(l.record.GetSpec()) {
		for writer, next := range l.againOffsets {
			number, ok := strings.CutPrefix(writer, b.Source+"-")
			partition, err := strconv.ParseInt(number, 10, 32)
			if !ok || err != nil {
				continue // of the other source
			}
			if s.again[b.Side] == nil {
				s.again[b.Side] = map[int32]int64{}
			}
			s.again[b.Side][int32(partition)] = next
		}
	}
	if s.again.any() && s.why == "" {
		s.why = putOutAgain
	}
	if s.again.any() && (s.joined.any() || wentBack) && l.ledger != nil {
		l.forgetLedger()
	}
}

// forgetLedger is for a lane of which it cannot be told any more which of the rows that it finds in the table its ledger has: one that has rows twice, or lacks them, would be
// wrong for good. It is called while nothing is collected.
func (l *lane) forgetLedger() {
	l.log.Warn("it cannot be told which rows of the table the lane's ledger has: the lane goes on without one", "lane", l.index)
	l.ledger = nil
}

// joins tells whether rows of a join are looked for. Of nil it is false.
func (s *suspicion) joins() bool { return s != nil && (s.joined.any() || s.again.any()) }

// holds tells whether a row is made of records below the offsets.
func (o joinedOffsets) holds(row batch.Origin) bool {
	return row.LeftOffset < o[spec.Left][row.LeftPartition] &&
		(row.RightPartition == batch.NoRight || row.RightOffset < o[spec.Right][row.RightPartition])
}

// joinedSince is the part of what a join had taken that is not in earlier.
func joinedSince(joined, earlier map[string]*eventv1.Taken) map[string]*eventv1.Taken {
	return snapshot{taken: joined}.since(snapshot{taken: earlier}).taken
}

// look notes which rows of a range of the present group were found in the table, where those are counted. What was noted before a crash stays so: what is found since then the
// block itself has brought there.
func (s *sending) look(r block.Range, found map[int]bool) {
	if !s.lane.suspicion.again.any() || s.lane.suspicion.joined.any() {
		return
	}
	if s.pending.Counted == nil {
		s.pending.Counted = make([]byte, (s.pending.GetRows()+7)/8)
	}
	at := r.Shift(s.order)
	for row := max(at.From, int(s.pending.GetLooked())); row < at.To; row++ {
		if found[row-at.From] {
			s.pending.Counted[row/8] |= 1 << (row % 8)
		}
	}
	s.pending.Looked = max(s.pending.GetLooked(), uint64(at.To))
}

// isCounted tells whether a row, counted over all groups, was in the table before the block was sent, and in the ledger.
func (s *sending) isCounted(row int) bool {
	counted := s.pending.GetCounted()
	return row/8 < len(counted) && counted[row/8]>>(row%8)&1 == 1
}

// counted is how many rows are.
func (s *sending) counted() (n uint64) {
	for _, b := range s.pending.GetCounted() {
		n += uint64(bits.OnesCount8(b))
	}
	return n
}
