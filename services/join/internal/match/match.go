// Package match is the semantics of joins, which docs/joins.md shows by example: which rows meet, when a row is late, when it
// leaves, and in which order all of it comes out.
//
// Guaranteed: everything depends on the rows and the watermarks alone, in their order. As long as no row is late, the pairs
// of an INTERVAL join and the answers of a LOOKUP join, as a set, do not depend on that order either. Each left row of a LEFT join comes out at least once, each other pair exactly once.
//
// It has no clock and looks at no map's order. An error of the Output or of the state ends its use.
package match

import (
	"encoding/binary"
	"errors"
	"math"

	"sluice/libs/watermark"
	"sluice/services/join/internal/state"
)

// Config is the join. Durations in milliseconds.
type Config struct {
	Lookup bool
	// Outer: left rows that met nobody come out alone (LEFT); else they are dropped (INNER).
	Outer bool
	// WindowMS bounds how far apart two rows may be; Forever, for a LOOKUP: right rows are remembered for good.
	WindowMS int64
	WaitMS   int64
	// MaxFutureMS is how far a row's time may be ahead of its arrival; 0: as far as it likes.
	MaxFutureMS int64
}

// Forever is the window of a LOOKUP that has none.
const Forever = -1

// Output takes what comes out. The rows are valid until the call returns.
type Output interface {
	Pair(left, right *state.Row) error
	Unmatched(left *state.Row) error
}

// Counts are of left rows: those that met a right row, and those that came out alone; and of rows of both sides that came
// too late, and that had no key or never met anybody. Right rows of a LOOKUP are dropped only for want of a key: to be replaced is
// their lot.
type Counts struct {
	Matched, Unmatched, Late, Dropped uint64
}

// Verdict is what has become of a row.
type Verdict int

// The verdicts. Of a row that was not taken in nothing has come but the verdict, and for a late one the count.
const (
	Taken Verdict = iota
	Late
	Future // its time is too far ahead of its arrival
)

// Joiner is the join of one lane.
type Joiner struct {
	config    Config
	rows      *state.Store
	watermark int64
	// floors are, by side, the times that rows have left up to: none that waits is before. They never go back, whatever becomes of the config.
	floors [2]int64
	seq    uint64
	past   Past // nil but while rows come again
	Counts Counts
}

// New makes a joiner on an empty store.
func New(config Config, rows *state.Store) *Joiner {
	return &Joiner{config: config, rows: rows, watermark: watermark.None, floors: [2]int64{math.MinInt64, math.MinInt64}}
}

// Config is what holds now.
func (j *Joiner) Config() Config { return j.config }

// Adopt changes over to other durations. What has come out and what has left stays so; from here on rows meet, and leave, by the new ones.
func (j *Joiner) Adopt(config Config) { j.config = config }

// Watermark is what holds now.
func (j *Joiner) Watermark() int64 { return j.watermark }

// Add takes in a row that has arrived at arrivalMS.
func (j *Joiner) Add(r state.Row, arrivalMS int64, out Output) (Verdict, error) {
	if j.past != nil && j.past.Future(&r) {
		return Future, nil
	}
	if j.config.MaxFutureMS > 0 && r.TimeMS > plus(arrivalMS, j.config.MaxFutureMS) {
		return Future, nil
	}
	late, err := j.add(r, out)
	if late {
		j.Counts.Late++
		return Late, err
	}
	return Taken, err
}

func (j *Joiner) add(r state.Row, out Output) (late bool, err error) {
	j.seq++
	r.Seq, r.Matched = j.seq, false
	if j.past != nil {
		if done, late, err := j.again(&r, out); done || err != nil {
			return late, err
		}
	}
	switch {
	case r.TimeMS < j.watermark && (r.Key == state.Key{} || !j.stillWanted(&r, j.watermark)):
		late = true
	case r.Key == state.Key{}:
		// Equal to nothing, as NULL is in SQL.
		if r.Side == state.Left {
			return false, j.alone(&r, out)
		}
		j.Counts.Dropped++
		return false, nil
	case r.TimeMS < j.watermark:
		late, err = j.renewLate(&r, out)
	case j.config.Lookup && r.Side == state.Right:
		err = j.keep(&r)
	case j.config.Lookup:
		j.rows.Insert(r)
	default:
		err = j.meet(&r, out)
	}
	return late, err
}

// stillWanted tells of a late row whether it may be taken all the same: a right row of a LOOKUP that a left row to come can want.
func (j *Joiner) stillWanted(r *state.Row, watermark int64) bool {
	return j.config.Lookup && r.Side == state.Right && r.TimeMS >= j.floors[state.Right] &&
		(j.config.WindowMS == Forever || plus(r.TimeMS, j.config.WindowMS+j.config.WaitMS) >= watermark)
}

// alone lets a left row go that met nobody.
func (j *Joiner) alone(r *state.Row, out Output) error {
	if !j.config.Outer {
		j.Counts.Dropped++
		return nil
	}
	j.Counts.Unmatched++
	return out.Unmatched(r)
}

// Advance lets the watermark rise to w: rows whose time has come are decided, and leave.
func (j *Joiner) Advance(w int64, out Output) error {
	if w <= j.watermark || j.past != nil {
		return nil
	}
	before := j.watermark
	j.watermark = w
	if j.config.Lookup {
		return j.advanceLookup(before, out)
	}
	return j.advanceInterval(out)
}

// Wanted tells of a row of a checkpoint whether it still waits at the checkpoint's watermark. What is to be known of single rows
// the checkpoint tells; this is what time tells.
func (j *Joiner) Wanted(r *state.Row) (bool, error) {
	switch {
	case r.TimeMS < j.floors[r.Side]:
		return false, nil
	case !j.config.Lookup || r.Side == state.Left:
		return true, nil
	}
	// One waits for each key and time, and one for each key of those whose time has come.
	var other state.Row
	var ok bool
	var err error
	if r.TimeMS < j.watermark {
		other, ok, err = j.rows.Latest(state.Right, r.Key, j.watermark-1)
	} else {
		other, ok, err = j.rows.At(state.Right, r.Key, r.TimeMS)
	}
	if err != nil || !ok {
		return err == nil, err
	}
	if newer(&other, r) {
		return false, nil
	}
	return true, j.rows.Remove(&other, false)
}

// Append appends what is not in the rows to dst.
func (j *Joiner) Append(dst []byte) []byte {
	dst = binary.AppendVarint(dst, j.watermark)
	dst = binary.AppendUvarint(dst, j.seq)
	return binary.AppendVarint(binary.AppendVarint(dst, j.floors[state.Left]), j.floors[state.Right])
}

// Restore reads what Append has written, and returns what follows it.
func (j *Joiner) Restore(src []byte) ([]byte, error) {
	w, n := binary.Varint(src)
	if n <= 0 {
		return nil, errDamaged
	}
	seq, m := binary.Uvarint(src[n:])
	if m <= 0 {
		return nil, errDamaged
	}
	j.watermark, j.seq = w, seq
	src = src[n+m:]
	if len(src) == 0 { // written before floors were: what left then left by the config that still holds
		j.floors = j.reached()
		return src, nil
	}
	for side := range j.floors {
		if j.floors[side], n = binary.Varint(src); n <= 0 {
			return nil, errDamaged
		}
		src = src[n:]
	}
	return src, nil
}

// reached is where the floors are by the config and the watermark alone.
func (j *Joiner) reached() [2]int64 {
	c := &j.config
	switch {
	case !c.Lookup:
		floor := minus(j.watermark, c.WindowMS)
		return [2]int64{floor, floor}
	case c.WindowMS == Forever:
		return [2]int64{minus(j.watermark, c.WaitMS), math.MinInt64}
	}
	return [2]int64{minus(j.watermark, c.WaitMS), minus(j.watermark, c.WindowMS+c.WaitMS)}
}

// leave lets the rows of a side leave whose time is over; each is called for each of them first.
func (j *Joiner) leave(side state.Side, each func(*state.Row) error) error {
	floor := j.reached()[side]
	if floor <= j.floors[side] {
		return nil
	}
	// From the last floor on: before it there is nothing but, on disk, what is left of rows that have left.
	err := j.rows.Times(side, j.floors[side], floor-1, func(r *state.Row) error {
		if err := each(r); err != nil {
			return err
		}
		return j.rows.Remove(r, false)
	})
	j.floors[side] = floor
	return err
}

var errDamaged = errors.New("the join's state is damaged")

// plus adds a duration without running over.
func plus(ms, duration int64) int64 {
	if ms > math.MaxInt64-duration {
		return math.MaxInt64
	}
	return ms + duration
}

// minus subtracts a duration without running over.
func minus(ms, duration int64) int64 {
	if ms < math.MinInt64+duration {
		return math.MinInt64
	}
	return ms - duration
}

// Inherit takes over where the joiner of a lane before stands, the first of several or another. What it has decided stays so; what this one has yet to
// decide begins with the one that was furthest behind.
func (j *Joiner) Inherit(old *Joiner, first bool) {
	if first {
		j.watermark, j.floors = old.watermark, old.floors
		return
	}
	j.watermark = min(j.watermark, old.watermark)
	for side := range j.floors {
		j.floors[side] = min(j.floors[side], old.floors[side])
	}
}

// Take takes in a row that waits in a lane before.
func (j *Joiner) Take(r state.Row) {
	j.seq++
	r.Seq = j.seq
	j.rows.Insert(r)
}
