package state

import "slices"

// slot is a row in memory, without pointers: Go's collector passes millions of them over.
type slot struct {
	time      int64
	seq       uint64
	offset    int64
	cells     place
	entry     int32 // of the index
	partition int32
	born      uint32
	revision  uint16 // in revisions
	side      Side
	matched   bool
	dead      bool // removed; a leaf still lists it
}

const (
	slabBits = 12
	slab     = 1 << slabBits
	slotSize = 56
	// entrySize is an entry and its share of the table, listed the number of a slot in a leaf or a list.
	entrySize  = 24 + 8
	listedSize = 4
)

// slots hands out numbered slots.
type slots struct {
	slabs [][]slot
	next  int32
	free  []int32
}

func (s *slots) get(id int32) *slot { return &s.slabs[id>>slabBits][id&(slab-1)] }

func (s *slots) take() int32 {
	if n := len(s.free); n > 0 {
		id := s.free[n-1]
		s.free = s.free[:n-1]
		return id
	}
	if int(s.next)>>slabBits == len(s.slabs) {
		s.slabs = append(s.slabs, make([]slot, slab))
	}
	s.next++
	return s.next - 1
}

// entry is a key and its rows of each side: 0 = none, n > 0 = slot n-1, n < 0 = list -n-1.
type entry struct {
	key  Key
	rows [2]int32
}

// list is the slots of a side of a key in the order of (time, seq), from head on.
type list struct {
	ids  []int32
	head int
}

// index finds the rows of a key.
type index struct {
	slots    *slots
	table    []int32 // open addressing: entry + 1; a power of two, at most half full
	entries  []entry
	unused   []int32
	lists    []list
	unlisted []int32
	count    int
	listed   int // numbers of slots in lists
}

func newIndex(s *slots) index { return index{slots: s, table: make([]int32, 64)} }

// home takes the high word: the low one has chosen the lane.
func (x *index) home(key Key) int { return int((key[1] ^ key[0]>>32) & uint64(len(x.table)-1)) }

// find returns the entry of a key, or -1.
func (x *index) find(key Key) int32 {
	mask := len(x.table) - 1
	for at := x.home(key); x.table[at] != 0; at = (at + 1) & mask {
		if e := x.table[at] - 1; x.entries[e].key == key {
			return e
		}
	}
	return -1
}

func (x *index) findOrAdd(key Key) int32 {
	if e := x.find(key); e >= 0 {
		return e
	}
	if 2*(x.count+1) > len(x.table) {
		x.grow()
	}
	var e int32
	if n := len(x.unused); n > 0 {
		e, x.unused = x.unused[n-1], x.unused[:n-1]
		x.entries[e] = entry{key: key}
	} else {
		e = int32(len(x.entries))
		x.entries = append(x.entries, entry{key: key})
	}
	x.place(e)
	x.count++
	return e
}

func (x *index) place(e int32) {
	mask := len(x.table) - 1
	at := x.home(x.entries[e].key)
	for x.table[at] != 0 {
		at = (at + 1) & mask
	}
	x.table[at] = e + 1
}

func (x *index) grow() {
	old := x.table
	x.table = make([]int32, 2*len(old))
	for _, e := range old {
		if e != 0 {
			x.place(e - 1)
		}
	}
}

// remove takes an entry out and moves those behind it up, so that no search ends too early.
func (x *index) remove(e int32) {
	mask := len(x.table) - 1
	at := x.home(x.entries[e].key)
	for x.table[at] != e+1 {
		at = (at + 1) & mask
	}
	for next := at; ; {
		next = (next + 1) & mask
		if x.table[next] == 0 {
			break
		}
		home := x.home(x.entries[x.table[next]-1].key)
		if (next-home)&mask >= (next-at)&mask {
			x.table[at], at = x.table[next], next
		}
	}
	x.table[at] = 0
	x.unused = append(x.unused, e)
	x.count--
}

// rows returns the slots of a side of an entry, in order. They are valid until the index is changed.
func (x *index) rows(e int32, side Side, one *[1]int32) []int32 {
	switch ref := x.entries[e].rows[side]; {
	case ref == 0:
		return nil
	case ref > 0:
		one[0] = ref - 1
		return one[:]
	default:
		l := &x.lists[-ref-1]
		return l.ids[l.head:]
	}
}

// search returns how many of ids are before (time, seq).
func (x *index) search(ids []int32, time int64, seq uint64) int {
	lo, hi := 0, len(ids)
	if hi > 0 { // mostly rows come in order
		if s := x.slots.get(ids[hi-1]); before(s.time, s.seq, time, seq) {
			return hi
		}
	}
	for lo < hi {
		mid := int(uint(lo+hi) >> 1)
		if s := x.slots.get(ids[mid]); before(s.time, s.seq, time, seq) {
			lo = mid + 1
		} else {
			hi = mid
		}
	}
	return lo
}

// link adds a slot to its entry.
func (x *index) link(id int32) {
	s := x.slots.get(id)
	ref := &x.entries[s.entry].rows[s.side]
	switch {
	case *ref == 0:
		*ref = id + 1
		return
	case *ref > 0:
		var n int32
		if k := len(x.unlisted); k > 0 {
			n, x.unlisted = x.unlisted[k-1], x.unlisted[:k-1]
		} else {
			n = int32(len(x.lists))
			x.lists = append(x.lists, list{})
		}
		x.lists[n] = list{ids: append(make([]int32, 0, 4), *ref-1)}
		x.listed++
		*ref = -n - 1
	}
	l := &x.lists[-*ref-1]
	if l.head > len(l.ids)/2 && l.head > 16 {
		l.ids = append(l.ids[:0], l.ids[l.head:]...)
		l.head = 0
	}
	at := x.search(l.ids[l.head:], s.time, s.seq)
	l.ids = slices.Insert(l.ids, l.head+at, id)
	x.listed++
}

// unlink takes a slot out of its entry, and the entry out once it has none.
func (x *index) unlink(id int32) {
	s := x.slots.get(id)
	e := &x.entries[s.entry]
	ref := &e.rows[s.side]
	if *ref > 0 {
		*ref = 0
	} else {
		n := -*ref - 1
		l := &x.lists[n]
		at := x.search(l.ids[l.head:], s.time, s.seq)
		if at == 0 {
			l.head++
		} else {
			l.ids = slices.Delete(l.ids, l.head+at, l.head+at+1)
		}
		x.listed--
		if l.head == len(l.ids) {
			*l = list{}
			x.unlisted = append(x.unlisted, n)
			*ref = 0
		}
	}
	if e.rows[Left] == 0 && e.rows[Right] == 0 {
		x.remove(s.entry)
	}
}
