package state

import (
	"errors"
	"fmt"
	"math"
	"slices"
)

// Options of a store.
type Options struct {
	// Budget is the memory for rows, in bytes; 0 = without a limit.
	Budget int
	// Disk opens where rows go beyond that. It is called once, when it is needed.
	Disk func() (Disk, error)
	// BornMS is the width of a bucket of log time, milliseconds: see Buckets.
	BornMS int64
}

// Store is the rows that wait.
type Store struct {
	options   Options
	slots     slots
	arena     arena
	index     index
	lines     [2]timeline
	revisions []uint64
	disk      Disk
	count     [2]int // rows, in memory and on disk
	onDisk    [2]int
	spilled   [2]int64 // the latest time of a row that has gone to disk
	born      uint32
	every     uint32
	log       log
	scratch   [][]int32 // of walks, one for each depth
}

// New makes an empty store.
func New(options Options) *Store {
	s := &Store{options: options, arena: newArena(), every: 1, spilled: [2]int64{math.MinInt64, math.MinInt64}}
	s.Buckets(options.BornMS, 1)
	s.index = newIndex(&s.slots)
	for side := range s.lines {
		s.lines[side] = timeline{slots: &s.slots, freed: func(id int32) { s.slots.free = append(s.slots.free, id) }}
	}
	s.log = newLog()
	return s
}

// Close lets go of the disk.
func (s *Store) Close() error {
	if s.disk == nil {
		return nil
	}
	return s.disk.Close()
}

// Len is the number of rows of a side.
func (s *Store) Len(side Side) int { return s.count[side] }

// OnDisk is how many of all rows are on disk.
func (s *Store) OnDisk() int { return s.onDisk[Left] + s.onDisk[Right] }

// Bytes is the memory that the rows in memory take.
func (s *Store) Bytes() int {
	live := s.count[Left] + s.count[Right] - s.OnDisk()
	bytes := s.arena.held + live*(slotSize+listedSize) + s.index.count*entrySize + s.index.listed*listedSize
	if s.disk != nil {
		bytes += s.disk.Bytes()
	}
	return bytes
}

// Insert adds a row, whose Born it sets, and writes it to the log of what is new. Its cells are copied.
func (s *Store) Insert(r Row) {
	r.Born = s.born
	s.log.row(&r)
	s.insert(&r)
}

func (s *Store) insert(r *Row) {
	id := s.slots.take()
	*s.slots.get(id) = slot{
		time: r.TimeMS, seq: r.Seq, offset: r.Offset, cells: s.arena.put(r.Cells), entry: s.index.findOrAdd(r.Key), partition: r.Partition,
		born: r.Born, revision: s.revision(r.Revision), side: r.Side, matched: r.Matched,
	}
	s.index.link(id)
	s.lines[r.Side].add(id)
	s.count[r.Side]++
	s.log.lives(r.Born, len(r.Cells))
}

func (s *Store) revision(n uint64) uint16 {
	for i := len(s.revisions) - 1; i >= 0; i-- {
		if s.revisions[i] == n {
			return uint16(i)
		}
	}
	s.revisions = append(s.revisions, n)
	return uint16(len(s.revisions) - 1)
}

// row fills r with the row of a slot.
func (s *Store) row(r *Row, id int32) {
	x := s.slots.get(id)
	*r = Row{
		Side: x.side, Matched: x.matched, Key: s.index.entries[x.entry].key, TimeMS: x.time, Seq: x.seq, Partition: x.partition, Offset: x.offset,
		Revision: s.revisions[x.revision], Cells: s.arena.get(x.cells), Born: x.born, place: id + 1,
	}
}

// Key walks the rows of a side and key with from ≤ time ≤ to. each may remove and mark rows, but not insert any.
func (s *Store) Key(side Side, key Key, from, to int64, each func(*Row) error) error {
	var ids []int32
	if e := s.index.find(key); e >= 0 {
		var one [1]int32
		rows := s.index.rows(e, side, &one)
		first := s.index.search(rows, from, 0)
		last := first
		if to == math.MaxInt64 {
			last = len(rows)
		} else {
			last += s.index.search(rows[first:], to+1, 0)
		}
		ids = append(s.borrow(), rows[first:last]...)
		defer s.giveBack(ids)
	}
	if s.onDisk[side] == 0 {
		return s.merge(ids, nil, each)
	}
	return s.merge(ids, func(each func(*Row) error) error { return s.disk.Key(side, key, from, to, each) }, each)
}

// Times walks the rows of a side with from ≤ time ≤ to. each may remove and mark rows, but not insert any.
func (s *Store) Times(side Side, from, to int64, each func(*Row) error) error {
	if from > to {
		return nil
	}
	ids := s.lines[side].within(s.borrow(), from, to)
	defer s.giveBack(ids)
	if s.onDisk[side] == 0 {
		return s.merge(ids, nil, each)
	}
	return s.merge(ids, func(each func(*Row) error) error { return s.disk.Times(side, from, to, each) }, each)
}

// merge walks rows in memory and on disk in their common order.
func (s *Store) merge(ids []int32, disk func(func(*Row) error) error, each func(*Row) error) error {
	var r Row
	next := 0
	upTo := func(end *Row) error {
		for ; next < len(ids); next++ {
			x := s.slots.get(ids[next])
			if x.dead {
				continue // removed by each
			}
			if end != nil && !before(x.time, x.seq, end.TimeMS, end.Seq) {
				return nil
			}
			s.row(&r, ids[next])
			if err := each(&r); err != nil {
				return err
			}
		}
		return nil
	}
	if disk != nil {
		err := disk(func(d *Row) error {
			if err := upTo(d); err != nil {
				return err
			}
			return each(d)
		})
		if err != nil {
			return err
		}
	}
	return upTo(nil)
}

// Latest returns the last row of a side and key with time ≤ to.
func (s *Store) Latest(side Side, key Key, to int64) (Row, bool, error) {
	return s.Before(side, key, to, math.MaxUint64) // no row has that number
}

// Before returns the last row of a side and key before (time, seq).
func (s *Store) Before(side Side, key Key, time int64, seq uint64) (Row, bool, error) {
	r, found := s.inMemory(side, key, time, seq)
	if s.onDisk[side] == 0 {
		return r, found, nil
	}
	d, ok, err := s.disk.Before(side, key, time, seq)
	if err != nil {
		return r, false, err
	}
	if ok && (!found || before(r.TimeMS, r.Seq, d.TimeMS, d.Seq)) {
		return d, true, nil
	}
	return r, found, nil
}

// inMemory is Before among the rows in memory.
func (s *Store) inMemory(side Side, key Key, time int64, seq uint64) (r Row, found bool) {
	if e := s.index.find(key); e >= 0 {
		var one [1]int32
		rows := s.index.rows(e, side, &one)
		if n := s.index.search(rows, time, seq); n > 0 {
			s.row(&r, rows[n-1])
			found = true
		}
	}
	return r, found
}

// At returns the last row of a side, key and time.
func (s *Store) At(side Side, key Key, time int64) (Row, bool, error) {
	if time <= s.spilled[side] {
		r, ok, err := s.Latest(side, key, time)
		return r, ok && r.TimeMS == time, err
	}
	r, ok := s.inMemory(side, key, time, math.MaxUint64)
	return r, ok && r.TimeMS == time, nil
}

// find is the row of a side, key, time and number. However many rows share the others, it is found by all four.
func (s *Store) find(side Side, key Key, time int64, seq uint64) (Row, bool, error) {
	var r Row
	if e := s.index.find(key); e >= 0 {
		var one [1]int32
		rows := s.index.rows(e, side, &one)
		if at := s.index.search(rows, time, seq); at < len(rows) {
			if x := s.slots.get(rows[at]); x.time == time && x.seq == seq {
				s.row(&r, rows[at])
				return r, true, nil
			}
		}
	}
	if s.onDisk[side] == 0 {
		return r, false, nil
	}
	return s.disk.Find(side, key, time, seq)
}

// Match marks a row as one that has met another. r is what a walk has given.
func (s *Store) Match(r *Row) error {
	if r.Matched {
		return nil
	}
	r.Matched = true
	s.log.delta(deltaMatched, r)
	if r.place == 0 {
		return s.disk.Replace(r)
	}
	s.slots.get(r.place - 1).matched = true
	return nil
}

// Remove removes a row. Told is whether decoding must be told: it need not when it can know by the row's time.
func (s *Store) Remove(r *Row, told bool) error {
	if told {
		s.log.delta(deltaGone, r)
	}
	s.log.dies(r.Born, len(r.Cells))
	s.count[r.Side]--
	if r.place == 0 {
		s.onDisk[r.Side]--
		return s.disk.Remove(r)
	}
	s.drop(r.place - 1)
	return nil
}

// drop takes a row out of memory.
func (s *Store) drop(id int32) {
	x := s.slots.get(id)
	s.index.unlink(id)
	s.arena.drop(x.cells)
	x.dead = true
	s.lines[x.side].remove(x)
}

// errNoDisk says that rows are more than the budget takes, and that there is nothing else.
var errNoDisk = errors.New("the rows that wait are more than the memory given, and there is no disk")

// Balance brings the memory back within the budget. It is called between steps, and within one when many rows come.
func (s *Store) Balance() error {
	if s.options.Budget <= 0 {
		return nil
	}
	for s.Bytes() > s.options.Budget {
		if s.arena.held > s.arena.live+s.arena.live/4+4*chunkSize {
			s.compact()
			continue
		}
		if s.count[Left]+s.count[Right] == s.OnDisk() {
			return nil // what is left is memory for nothing
		}
		if err := s.spill(); err != nil {
			return err
		}
	}
	return nil
}

// compact moves all cells together.
func (s *Store) compact() {
	fresh := newArena()
	for side := range s.lines {
		for _, l := range s.lines[side].leaves {
			for _, id := range l.ids {
				if x := s.slots.get(id); !x.dead {
					x.cells = fresh.put(s.arena.get(x.cells))
				}
			}
		}
	}
	s.arena = fresh
}

// spill moves the oldest rows to disk.
func (s *Store) spill() error {
	if s.disk == nil {
		if s.options.Disk == nil {
			return errNoDisk
		}
		disk, err := s.options.Disk()
		if err != nil {
			return fmt.Errorf("open a place on disk for rows beyond the memory: %w", err)
		}
		s.disk = disk
	}
	side := Left
	left, right := s.lines[Left].leaves, s.lines[Right].leaves
	if len(left) == 0 || len(right) > 0 && right[0].time < left[0].time {
		side = Right
	}
	ids := slices.Clone(s.lines[side].oldest())
	rows := make([]Row, len(ids))
	for i, id := range ids {
		s.row(&rows[i], id)
	}
	if err := s.disk.Put(rows); err != nil {
		return fmt.Errorf("move %d rows to disk: %w", len(rows), err)
	}
	for _, id := range ids {
		s.drop(id)
	}
	s.onDisk[side] += len(ids)
	s.spilled[side] = max(s.spilled[side], rows[len(rows)-1].TimeMS)
	return nil
}

func (s *Store) borrow() []int32 {
	if n := len(s.scratch); n > 0 {
		b := s.scratch[n-1]
		s.scratch = s.scratch[:n-1]
		return b[:0]
	}
	return nil
}

func (s *Store) giveBack(b []int32) {
	if cap(b) <= 1<<20 {
		s.scratch = append(s.scratch, b)
	}
}
