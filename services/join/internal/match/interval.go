package match

import (
	"sluice/services/join/internal/state"
)

// meet puts out the pairs of a row with those that wait, in the order of their times, and lets it wait itself.
func (j *Joiner) meet(r *state.Row, out Output) error {
	window := j.config.WindowMS
	err := j.rows.Key(r.Side.Other(), r.Key, minus(r.TimeMS, window), plus(r.TimeMS, window), func(o *state.Row) error {
		left, right := r, o
		if r.Side == state.Right {
			left, right = o, r
		}
		if !left.Matched {
			j.Counts.Matched++
		}
		r.Matched = true
		if err := j.rows.Match(o); err != nil {
			return err
		}
		return out.Pair(left, right)
	})
	if err != nil {
		return err
	}
	j.rows.Insert(*r)
	return nil
}

// advanceInterval lets the rows leave that nobody who is not late can meet any more: those with watermark > time + window.
func (j *Joiner) advanceInterval(out Output) error {
	err := j.leave(state.Left, func(r *state.Row) error {
		if r.Matched {
			return nil
		}
		return j.alone(r, out)
	})
	if err != nil {
		return err
	}
	return j.leave(state.Right, func(r *state.Row) error {
		if !r.Matched {
			j.Counts.Dropped++
		}
		return nil
	})
}
