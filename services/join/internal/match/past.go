package match

import (
	"math"

	"sluice/services/join/internal/state"
)

// Past is what the lane has decided already about rows that come again, in another order, since the log before it had lost its end. As long as there is one
// the watermark stands still, so that rows meet whichever comes first; what is out is the Output's to leave out.
//
// What is out stays as it is: a left row that came out alone, or with its right row (LOOKUP), is done, and a row that was late is
// late; one that had not come is late if it would have been then. All else follows from the rows: pairs of an INTERVAL join are the same in any order, and what was out by no means is decided anew.
type Past interface {
	// Late tells that a row was refused as late; else the watermark that it must not be behind.
	Late(*state.Row) (late bool, watermark int64)
	// Future tells that a row was refused since its time was too far ahead of its arrival; it has arrived later now.
	Future(*state.Row) bool
	// Left is what became of a left row.
	Left(*state.Row) Fate
	// Done notes that a left row of a LOOKUP, which was put out with its right row, is not put out again.
	Done()
}

// Fate is what became of a left row.
type Fate uint8

// The fates.
const (
	Undecided Fate = iota
	Met            // it came out with at least one right row
	Alone          // it came out without
)

// Remember gives the joiner its past, and makes good in the rows that wait what that says of them. The order of calls is Restore, Remember.
func (j *Joiner) Remember(p Past, out Output) error {
	j.past = p
	return j.rows.Times(state.Left, math.MinInt64, math.MaxInt64, func(r *state.Row) error {
		switch fate := p.Left(r); {
		case fate == Undecided || fate == Met && r.Matched:
			return nil
		case fate == Met && !j.config.Lookup:
			j.Counts.Matched++
			return j.rows.Match(r)
		default:
			if err := j.settle(r, fate, out); err != nil {
				return err
			}
			return j.rows.Remove(r, true)
		}
	})
}

// Forget ends what Remember began. The watermark is at least as far as it was then.
func (j *Joiner) Forget() { j.past = nil }

// Remembers tells whether there is a past.
func (j *Joiner) Remembers() bool { return j.past != nil }

// settle counts a left row that needs no decision any more.
func (j *Joiner) settle(r *state.Row, fate Fate, out Output) error {
	if fate == Alone {
		return j.alone(r, out)
	}
	j.Counts.Matched++
	j.past.Done()
	return nil
}

// again takes a row in as it was taken before. done: nothing else is to be done with it.
func (j *Joiner) again(r *state.Row, out Output) (done, late bool, err error) {
	late, w := j.past.Late(r)
	if !late && r.TimeMS < w {
		if late, err = j.lateAt(r, w); err != nil {
			return true, false, err
		}
	}
	if late {
		return true, true, nil
	}
	if r.Side == state.Right {
		return false, false, nil
	}
	switch fate := j.past.Left(r); {
	case fate == Undecided:
		return false, false, nil
	case fate == Met && !j.config.Lookup:
		j.Counts.Matched++
		r.Matched = true
		return false, false, nil
	default:
		return true, false, j.settle(r, fate, out)
	}
}

// lateAt tells whether a row is late at a watermark that the joiner has not come to yet.
func (j *Joiner) lateAt(r *state.Row, w int64) (bool, error) {
	if r.Key == (state.Key{}) || !j.stillWanted(r, w) {
		return true, nil
	}
	newest, ok, err := j.rows.Latest(state.Right, r.Key, w-1)
	return ok && newer(&newest, r), err
}
