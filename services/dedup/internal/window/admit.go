package window

import (
	"encoding/binary"
	"fmt"
	"math"

	"sluice/libs/watermark"
)

// group is how many rows ahead memory is touched before any is decided, so that their cache misses
// overlap: at 100 million keys every row is a miss.
const group = 32

// Admit decides the rows of a batch, clears the selection bits of duplicates and returns their
// number. A batch that does not have the layout it claims is refused and changes nothing.
func (s *Set) Admit(b Batch) (duplicates int, err error) {
	if err := s.check(b); err != nil {
		return 0, err
	}
	w, known := s.writers[b.Writer]
	if !known {
		w = Writer{MaxMS: MinTime, ArrivalMS: math.MinInt64}
	}
	s.newest = max(s.newest, b.ArrivalMS)
	counts, latest := clampTime(b.ArrivalMS), clampTime(b.ArrivalMS+s.windowMS)

	var touched uint64
	keyed := false
	for from := 0; from < b.Rows; from += group {
		to := min(from+group, b.Rows)
		for i := from; i < to; i++ {
			touched ^= s.touch(b.Keys[i*16:])
		}
		for i := from; i < to; i++ {
			bit := byte(1) << (i & 7)
			if b.Selection[i>>3]&bit == 0 {
				continue
			}
			lo, hi := binary.LittleEndian.Uint64(b.Keys[i*16:]), binary.LittleEndian.Uint64(b.Keys[i*16+8:])
			if lo|hi == 0 {
				continue
			}
			keyed = true
			t := clampTime(int64(binary.LittleEndian.Uint64(b.Times[i*8:])))
			if s.eventTime {
				t = min(t, latest)
				w.MaxMS = max(w.MaxMS, min(t, counts))
			} else {
				t = max(t, s.largest)
				w.MaxMS, s.largest = t, t
				s.horizon = max(s.horizon, t-s.windowMS)
			}
			var pass bool
			if s.latest {
				pass = s.passLatest(lo, hi, t, binary.LittleEndian.Uint64(b.Versions[i*8:]))
			} else {
				pass = s.passFirst(lo, hi, t)
			}
			if !pass {
				b.Selection[i>>3] &^= bit
				duplicates++
			}
		}
	}
	sink(touched)

	if keyed {
		// A writer without keyed rows is idle, however often it is heard of: it says nothing about
		// the event time that it has reached.
		w.ArrivalMS = max(w.ArrivalMS, b.ArrivalMS)
		s.writers[b.Writer] = w
		s.largest = max(s.largest, w.MaxMS)
	}
	if s.eventTime {
		s.advance(b, keyed)
	}
	s.sweepDue()
	return duplicates, nil
}

// sink keeps the compiler from dropping the loads of touch.
//
//go:noinline
func sink(uint64) {}

func (s *Set) check(b Batch) error {
	switch {
	case b.Rows < 0 || len(b.Keys) != b.Rows*16:
		return fmt.Errorf("batch of %d rows: %d bytes of keys, want 16 a row", b.Rows, len(b.Keys))
	case len(b.Times) != b.Rows*8:
		return fmt.Errorf("batch of %d rows: %d bytes of times, want 8 a row", b.Rows, len(b.Times))
	case s.latest && len(b.Versions) != b.Rows*8:
		return fmt.Errorf("batch of %d rows: %d bytes of versions, want 8 a row", b.Rows, len(b.Versions))
	case len(b.Selection) != (b.Rows+7)/8:
		return fmt.Errorf("batch of %d rows: selection of %d bytes, want a bit a row", b.Rows, len(b.Selection))
	}
	return nil
}

// touch loads the slots where a search for a key and its insertion mostly end: the cache line of its
// home, and the two after it.
func (s *Set) touch(key []byte) uint64 {
	lo, hi := binary.LittleEndian.Uint64(key), binary.LittleEndian.Uint64(key[8:])
	n, hash, _ := split(lo, hi)
	t := &s.tables[n]
	if t.slots == nil {
		return 0
	}
	h := t.home(hash)
	near := t.slots[h : h+9]
	return near[0].rest ^ near[4].rest ^ near[8].rest
}

// advance moves the event-time horizon: two windows behind the slowest partition, or, while one of the live writers does not say how far its
// partition is, behind the slowest of these.
func (s *Set) advance(b Batch, keyed bool) {
	follows := s.partitions != nil
	if follows && b.Told {
		s.partitions.Add(b.Progress)
	}
	if w, known := s.writers[b.Writer]; known && (keyed || b.Told) {
		w.Told = follows && b.Told
		s.writers[b.Writer] = w
	}
	slowest, live := MaxTime, false
	for _, w := range s.writers {
		if s.newest-w.ArrivalMS <= IdleAfter.Milliseconds() {
			slowest, live = min(slowest, w.MaxMS), true
			follows = follows && w.Told
		}
	}
	if follows {
		slowest = s.partitions.Watermark()
		live = slowest != watermark.None
	}
	if live { // else nobody says anything of event time: events without a key for a minute must not end all that is remembered
		s.horizon = max(s.horizon, clampTime(slowest)-2*s.windowMS)
	}
}

// passFirst decides for keep FIRST.
func (s *Set) passFirst(lo, hi uint64, t int64) bool {
	n, hash, tag := split(lo, hi)
	tb := &s.tables[n]
	first, last, horizon := stamp(max(s.horizon, t-s.windowMS)), stamp(t+s.windowMS), stamp(s.horizon)
	at, dead := 0, -1
	if tb.slots != nil {
		at = tb.seek(hash)
		for i := at; tb.slots[i].hash == hash && tb.slots[i].rest != 0; i++ {
			rest := tb.slots[i].rest
			if rest>>timeBits != tag {
				continue
			}
			switch seen := rest & timeMask; {
			case seen < horizon:
				dead = i
			case first <= seen && seen <= last:
				return false
			}
		}
	}
	if t < s.horizon {
		s.late++
		return true
	}
	e := slot{hash, tag<<timeBits | stamp(t)}
	if dead >= 0 {
		tb.slots[dead] = e
	} else {
		s.put(tb, at, e, 0)
	}
	s.fresh.add(s.horizon, lo, hi, t, 0)
	return true
}

// passLatest decides for keep LATEST.
func (s *Set) passLatest(lo, hi uint64, t int64, version uint64) bool {
	n, hash, tag := split(lo, hi)
	tb := &s.tables[n]
	at := 0
	if tb.slots != nil {
		at = tb.seek(hash)
		for i := at; tb.slots[i].hash == hash && tb.slots[i].rest != 0; i++ {
			rest := tb.slots[i].rest
			if rest>>timeBits != tag {
				continue
			}
			// The time of a visible entry does not go back when a newer version is older by its
			// time: the key stays remembered as long as it was.
			if seen := int64(rest&timeMask) - 1 + MinTime; seen >= s.horizon {
				if tb.versions[i] >= version {
					return false
				}
				t = max(t, seen)
			} else if t < s.horizon {
				s.late++
				return true
			}
			tb.slots[i].rest, tb.versions[i] = tag<<timeBits|stamp(t), version
			s.fresh.add(s.horizon, lo, hi, t, version)
			return true
		}
	}
	if t < s.horizon {
		s.late++
		return true
	}
	s.put(tb, at, slot{hash, tag<<timeBits | stamp(t)}, version)
	s.fresh.add(s.horizon, lo, hi, t, version)
	return true
}

// put inserts an entry at the place that seek found, making room first where that is needed.
func (s *Set) put(t *table, at int, e slot, version uint64) {
	if t.slots == nil || t.full() {
		s.makeRoom(t)
		at = t.seek(e.hash)
	}
	for !t.insert(at, e, version) {
		s.resize(t, t.homes+t.homes/4+1)
		at = t.seek(e.hash)
	}
	s.entries++
}
