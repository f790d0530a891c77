package batch

import (
	"google.golang.org/protobuf/encoding/protowire"

	eventv1 "sluice/gen/sluice/event/v1"
)

// Tally is event.v1.Tally without its pointers.
type Tally struct {
	Records, Tombstones, DeadLetters, Duplicates, Rows uint64
	Matched, Unmatched, Late, Dropped                  uint64 // of the join
}

// Proto returns the tally as its message.
func (t Tally) Proto() *eventv1.Tally {
	return &eventv1.Tally{
		Records: t.Records, Tombstones: t.Tombstones, DeadLetters: t.DeadLetters, Duplicates: t.Duplicates, Rows: t.Rows,
		Matched: t.Matched, Unmatched: t.Unmatched, Late: t.Late, Dropped: t.Dropped,
	}
}

// TallyOf is the reverse of Proto; a nil message is the zero tally.
func TallyOf(m *eventv1.Tally) Tally {
	return Tally{
		Records: m.GetRecords(), Tombstones: m.GetTombstones(), DeadLetters: m.GetDeadLetters(), Duplicates: m.GetDuplicates(), Rows: m.GetRows(),
		Matched: m.GetMatched(), Unmatched: m.GetUnmatched(), Late: m.GetLate(), Dropped: m.GetDropped(),
	}
}

// Add adds what another has counted.
func (t *Tally) Add(other Tally) {
	t.each(func(number protowire.Number, count *uint64) {
		other.each(func(n protowire.Number, more *uint64) {
			if n == number {
				*count += *more
			}
		})
	})
}

// each visits the counts by their field numbers.
func (t *Tally) each(visit func(number protowire.Number, count *uint64)) {
	for i, count := range [...]*uint64{&t.Records, &t.Tombstones, &t.DeadLetters, &t.Duplicates, &t.Rows, &t.Matched, &t.Unmatched, &t.Late, &t.Dropped} {
		visit(protowire.Number(i+1), count)
	}
}

func (v *View) setTally(b []byte) error {
	return eachField(b, func(number protowire.Number, x uint64, _ []byte) {
		v.Tally.each(func(n protowire.Number, count *uint64) {
			if n == number {
				*count = x
			}
		})
	})
}
