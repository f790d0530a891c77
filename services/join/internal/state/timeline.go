package state

import (
	"cmp"
	"slices"
	"sort"
)

// leafRows is how many rows a leaf may have.
const leafRows = 4096

// timeline lists the rows of a side in the order of (time, seq): leaves of bounded size, one after the other, each sorted only when
// that is asked for.
type timeline struct {
	slots  *slots
	leaves []*leaf
	freed  func(id int32) // told of removed rows that no leaf lists any more
}

// leaf has the rows from (time, seq) on that lie before the next leaf.
type leaf struct {
	time   int64
	seq    uint64
	ids    []int32
	dead   int
	sorted bool
}

// at returns the leaf of (time, seq).
func (t *timeline) at(time int64, seq uint64) int {
	n := sort.Search(len(t.leaves), func(i int) bool { return before(time, seq, t.leaves[i].time, t.leaves[i].seq) })
	return max(n-1, 0)
}

func (t *timeline) add(id int32) {
	s := t.slots.get(id)
	if len(t.leaves) == 0 {
		t.leaves = append(t.leaves, &leaf{time: s.time, seq: s.seq, sorted: true})
	}
	i := t.at(s.time, s.seq)
	l := t.leaves[i]
	if len(l.ids) >= leafRows {
		i = t.split(i, s)
		l = t.leaves[i]
	}
	if before(s.time, s.seq, l.time, l.seq) {
		l.time, l.seq = s.time, s.seq // the first leaf begins anywhere
	}
	if n := len(l.ids); n > 0 && l.sorted {
		last := t.slots.get(l.ids[n-1])
		l.sorted = before(last.time, last.seq, s.time, s.seq)
	}
	l.ids = append(l.ids, id)
}

// split makes room in leaf i for s and returns its leaf.
func (t *timeline) split(i int, s *slot) int {
	l := t.leaves[i]
	t.tidy(l)
	if len(l.ids) < leafRows*3/4 {
		return i
	}
	last := t.slots.get(l.ids[len(l.ids)-1])
	next := &leaf{time: s.time, seq: s.seq, sorted: true}
	if !before(last.time, last.seq, s.time, s.seq) {
		half := len(l.ids) / 2
		first := t.slots.get(l.ids[half])
		next.time, next.seq = first.time, first.seq
		next.ids = append(next.ids, l.ids[half:]...)
		l.ids = l.ids[:half]
	}
	t.leaves = slices.Insert(t.leaves, i+1, next)
	if before(s.time, s.seq, next.time, next.seq) {
		return i
	}
	return i + 1
}

// tidy sorts a leaf and lets go of its removed rows.
func (t *timeline) tidy(l *leaf) {
	if l.dead > 0 {
		kept := l.ids[:0]
		for _, id := range l.ids {
			if t.slots.get(id).dead {
				t.freed(id)
			} else {
				kept = append(kept, id)
			}
		}
		l.ids, l.dead = kept, 0
	}
	if !l.sorted {
		slices.SortFunc(l.ids, func(a, b int32) int {
			x, y := t.slots.get(a), t.slots.get(b)
			return cmp.Or(cmp.Compare(x.time, y.time), cmp.Compare(x.seq, y.seq))
		})
		l.sorted = true
	}
}

// remove takes note that the row of a slot, dead by now, is no more.
func (t *timeline) remove(s *slot) {
	i := t.at(s.time, s.seq)
	l := t.leaves[i]
	l.dead++
	switch {
	case l.dead == len(l.ids):
		for _, id := range l.ids {
			t.freed(id)
		}
		t.leaves = slices.Delete(t.leaves, i, i+1)
	case l.dead > leafRows/2:
		t.tidy(l)
	}
}

// within appends the rows with from ≤ time ≤ to, in order.
func (t *timeline) within(dst []int32, from, to int64) []int32 {
	for i := t.at(from, 0); i < len(t.leaves) && t.leaves[i].time <= to; i++ {
		l := t.leaves[i]
		t.tidy(l)
		first := sort.Search(len(l.ids), func(k int) bool { return t.slots.get(l.ids[k]).time >= from })
		for _, id := range l.ids[first:] {
			if t.slots.get(id).time > to {
				return dst
			}
			dst = append(dst, id)
		}
	}
	return dst
}

// oldest is the rows of the first leaf.
func (t *timeline) oldest() []int32 {
	if len(t.leaves) == 0 {
		return nil
	}
	t.tidy(t.leaves[0])
	return t.leaves[0].ids
}
