package match

import (
	"cmp"
	"errors"
	"math"

	"sluice/services/join/internal/state"
)

// advanceLookup decides the left rows whose time the watermark has passed.
func (j *Joiner) advanceLookup(before int64, out Output) error {
	passed := j.watermark - 1 // the last moment of which all is known
	// First the rows whose own time has come.
	err := j.rows.Times(state.Left, before, passed, func(l *state.Row) error {
		r, ok, err := j.answer(l, passed)
		if err != nil || !ok {
			return err
		}
		return j.pair(l, &r, out)
	})
	if err != nil {
		return err
	}
	// Then those that have waited since before, by the right rows whose time has come.
	if j.config.WaitMS > 0 && before > math.MinInt64 {
		err := j.rows.Times(state.Right, before, passed, func(r *state.Row) error { return j.end(r, before-1, out) })
		if err != nil {
			return err
		}
	}
	if err := j.leave(state.Left, func(l *state.Row) error { return j.alone(l, out) }); err != nil {
		return err
	}
	return j.forget(before, passed)
}

// answer finds the right row of a left row, among those up to passed.
func (j *Joiner) answer(l *state.Row, passed int64) (state.Row, bool, error) {
	r, ok, err := j.rows.Latest(state.Right, l.Key, l.TimeMS)
	if err != nil {
		return r, false, err
	}
	if ok && (j.config.WindowMS == Forever || r.TimeMS >= minus(l.TimeMS, j.config.WindowMS)) {
		return r, true, nil
	}
	if j.config.WaitMS == 0 || l.TimeMS == math.MaxInt64 {
		return r, false, nil
	}
	first := int64(math.MaxInt64)
	err = j.rows.Key(state.Right, l.Key, l.TimeMS+1, min(plus(l.TimeMS, j.config.WaitMS), passed), func(r *state.Row) error {
		first = r.TimeMS
		return errFound
	})
	if !errors.Is(err, errFound) {
		return r, false, err
	}
	return j.rows.Latest(state.Right, l.Key, first)
}

// errFound ends a walk.
var errFound = errors.New("found")

// end ends the waiting of the left rows up to a time that r, whose time has come, is the first right row for.
func (j *Joiner) end(r *state.Row, to int64, out Output) error {
	if r.TimeMS == math.MinInt64 {
		return nil
	}
	return j.rows.Key(state.Left, r.Key, minus(r.TimeMS, j.config.WaitMS), min(r.TimeMS-1, to), func(l *state.Row) error { return j.pair(l, r, out) })
}

// pair puts a left row out and lets it leave. Where left rows wait beyond their time, time does not tell that it has left.
func (j *Joiner) pair(l, r *state.Row, out Output) error {
	j.Counts.Matched++
	if err := out.Pair(l, r); err != nil {
		return err
	}
	return j.rows.Remove(l, j.config.WaitMS > 0)
}

// forget removes the right rows that no left row to come can want.
func (j *Joiner) forget(before, passed int64) error {
	err := j.rows.Times(state.Right, before, passed, func(r *state.Row) error { return j.replace(r) })
	if err != nil {
		return err
	}
	return j.leave(state.Right, func(*state.Row) error { return nil })
}

// replace removes the right row of the key before r. There is one at most: of those whose time has come, each was removed when the next one's came.
func (j *Joiner) replace(r *state.Row) error {
	old, ok, err := j.rows.Before(state.Right, r.Key, r.TimeMS, r.Seq)
	if err != nil || !ok {
		return err
	}
	return j.rows.Remove(&old, false)
}

// newer tells which of two right rows of a key counts: the later one; of one time the one from the larger partition, then the one with the larger offset. Which
// of them came first does not matter: parts of a partition come through several dedup lanes, which are not equally fast. Only offsets that
// were given out anew are told apart by their order in the log.
func newer(a, b *state.Row) bool {
	return cmp.Or(cmp.Compare(a.TimeMS, b.TimeMS), cmp.Compare(a.Partition, b.Partition), cmp.Compare(a.Offset, b.Offset), cmp.Compare(a.Seq, b.Seq)) > 0
}

// keep lets a right row wait, as the only one of its key and time.
func (j *Joiner) keep(r *state.Row) error {
	same, ok, err := j.rows.At(state.Right, r.Key, r.TimeMS)
	if err != nil || ok && newer(&same, r) {
		return err
	}
	if ok {
		if err := j.rows.Remove(&same, false); err != nil {
			return err
		}
	}
	j.rows.Insert(*r)
	return nil
}

// renewLate takes a right row that is late, if it is the newest of its key among those whose time has come. Left rows that
// still wait take it too: they have found none.
func (j *Joiner) renewLate(r *state.Row, out Output) (late bool, err error) {
	newest, ok, err := j.rows.Latest(state.Right, r.Key, j.watermark-1)
	if err != nil {
		return false, err
	}
	if ok && newer(&newest, r) {
		return true, nil
	}
	if err := j.keep(r); err != nil {
		return false, err
	}
	if j.config.WaitMS > 0 {
		to := j.watermark - 1
		if j.config.WindowMS != Forever {
			to = min(to, plus(r.TimeMS, j.config.WindowMS))
		}
		err := j.rows.Key(state.Left, r.Key, minus(r.TimeMS, j.config.WaitMS), to, func(l *state.Row) error { return j.pair(l, r, out) })
		if err != nil {
			return false, err
		}
	}
	return false, j.replace(r)
}
