package window

import "math/bits"

// The set is 256 tables by the top byte of the fingerprint's high word, so that growing or sweeping
// moves a small part at a time. A table is an open-addressing hash table with linear probing whose
// slots are kept sorted by hash (Celis' robin hood hashing, with a total order): a search ends as
// soon as a larger hash is met, removal of expired entries is one pass in place, and growth is a
// merge of sorted runs. Home slots come from a multiplication (Lemire's fast range) instead of a
// mask, so that tables have any size. Probing does not wrap around; spare slots at the end take what
// overflows, and the very last slot is always empty and ends every search.
const (
	tableBits  = 8
	tableCount = 1 << tableBits

	timeBits = 44
	timeMask = 1<<timeBits - 1
	tagBits  = 64 - timeBits

	slotBytes    = 16
	versionBytes = 8

	minHomes = 16
	// minSpare is more than touch looks ahead.
	minSpare = 16
)

// slot is one entry. The zero slot is empty: a stored time is never zero.
type slot struct {
	hash uint64 // 56 bits of the high word that follow those of the table, then 8 of the low word
	rest uint64 // 20 further bits of the low word, then the time
}

type table struct {
	slots    []slot
	versions []uint64 // parallel to slots, for keep LATEST
	homes    int      // home slots; the others are spare
	count    int
}

// split turns a fingerprint into table, hash and tag.
func split(lo, hi uint64) (t, hash, tag uint64) {
	return hi >> (64 - tableBits), hi<<tableBits | lo>>(64-tableBits), lo << tableBits >> (64 - tagBits)
}

// stamp is a time as a slot stores it: never zero.
func stamp(t int64) uint64 { return uint64(t-MinTime) + 1 }

func (t *table) home(hash uint64) int {
	h, _ := bits.Mul64(hash, uint64(t.homes))
	return int(h)
}

// full tells whether the table has to make room before the next insertion.
func (t *table) full() bool { return t.count*100 >= t.homes*fullAt }

// seek returns the first slot whose hash is not below the given one, or the empty slot where the
// search ends. The table must have slots.
func (t *table) seek(hash uint64) int {
	slots := t.slots
	i := t.home(hash)
	for slots[i].hash < hash && slots[i].rest != 0 {
		i++
	}
	return i
}

// insert puts an entry at i, which seek gave. It returns false when no slot is left behind i.
func (t *table) insert(i int, e slot, version uint64) bool {
	slots := t.slots
	free := i
	for slots[free].rest != 0 {
		free++
	}
	if free == len(slots)-1 {
		return false // the last slot stays empty
	}
	// Runs are short as a rule; copy's overhead pays from a few slots on.
	if free-i <= 8 {
		for j := free; j > i; j-- {
			slots[j] = slots[j-1]
		}
	} else {
		copy(slots[i+1:free+1], slots[i:free])
	}
	slots[i] = e
	if t.versions != nil {
		copy(t.versions[i+1:free+1], t.versions[i:free])
		t.versions[i] = version
	}
	t.count++
	return true
}

// sweep removes the entries older than the horizon, in place: sorted by hash, each survivor moves to
// the left or stays, never beyond the entries still to be read.
func (t *table) sweep(horizon uint64) (removed int) {
	slots := t.slots
	next, kept := 0, 0
	for r := range slots {
		e := slots[r]
		if e.rest == 0 {
			continue
		}
		if e.rest&timeMask < horizon {
			slots[r] = slot{}
			continue
		}
		kept++
		w := max(next, t.home(e.hash))
		next = w + 1
		if w == r {
			continue
		}
		slots[w], slots[r] = e, slot{}
		if t.versions != nil {
			t.versions[w] = t.versions[r]
		}
	}
	removed = t.count - kept
	t.count = kept
	return removed
}

// resized returns a table of at least the given number of home slots with the same entries.
func (t *table) resized(homes int, latest bool) table {
	for {
		n := newTable(homes, latest)
		if n.fill(t) {
			return n
		}
		homes += homes/4 + 1 // the spare slots did not suffice
	}
}

func newTable(homes int, latest bool) table {
	homes = max(homes, minHomes)
	n := table{homes: homes, slots: make([]slot, homes+min(128, minSpare+homes/4))}
	if latest {
		n.versions = make([]uint64, len(n.slots))
	}
	return n
}

func (t *table) fill(from *table) bool {
	next := 0
	for r, e := range from.slots {
		if e.rest == 0 {
			continue
		}
		w := max(next, t.home(e.hash))
		if w >= len(t.slots)-1 {
			return false
		}
		next = w + 1
		t.slots[w] = e
		if t.versions != nil {
			t.versions[w] = from.versions[r]
		}
	}
	t.count = from.count
	return true
}

func (t *table) bytes() int { return len(t.slots)*slotBytes + len(t.versions)*versionBytes }
