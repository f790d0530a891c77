package window

import "runtime"

// Loads, in percent of a table's home slots. A table that is full is swept; if that leaves it
// fuller than growAbove it is moved to one that it fills to fillTo. A swept table that is emptier
// than shrinkBelow is moved too. So a table in use is at least shrinkBelow full of visible entries:
// 16 bytes / 0.68 = 23.5 bytes an entry. Lower loads make shorter runs and more sweeps: measured,
// 86/77/73 was no faster.
const (
	fullAt      = 90
	growAbove   = 80
	fillTo      = 75
	shrinkBelow = 68
)

// makeRoom lets a full table take another entry: by removing what has expired, else by growing.
func (s *Set) makeRoom(t *table) {
	if t.slots != nil {
		s.entries -= t.sweep(stamp(s.horizon))
	}
	if t.slots == nil || t.count*100 > t.homes*growAbove {
		s.resize(t, t.count*100/fillTo)
	}
}

// sweepDue sweeps the tables in turn, each once in an eighth of a window of progress, so that memory
// follows the number of visible entries without a pause for all of them.
func (s *Set) sweepDue() {
	if s.horizon < s.sweepAt {
		return
	}
	step := max(1, s.windowMS/8/tableCount)
	due := min(tableCount, (s.horizon-s.sweepAt)/step+1)
	for range due {
		t := &s.tables[s.sweepNext]
		s.sweepNext = (s.sweepNext + 1) % tableCount
		if t.slots == nil {
			continue
		}
		s.entries -= t.sweep(stamp(s.horizon))
		if t.count == 0 {
			s.giveUp(t.bytes())
			s.bytes -= t.bytes()
			*t = table{}
		} else if t.count*100 < t.homes*shrinkBelow && t.homes > minHomes {
			s.resize(t, t.count*100/fillTo)
		}
	}
	s.sweepAt = s.horizon + step
}

// resize moves a table's entries to one of so many home slots.
func (s *Set) resize(t *table, homes int) {
	n := t.resized(homes, s.latest)
	s.bytes += n.bytes() - t.bytes()
	s.giveUp(t.bytes())
	*t = n
}

// giveUp counts slots left to the garbage collector, and runs it when they are an eighth of the set.
// By itself it would wait until the heap has doubled, and the memory of a set is most of the heap. A
// collection is cheap here: tables have no pointers to follow.
func (s *Set) giveUp(bytes int) {
	s.garbage += bytes
	if s.garbage > 64<<20 && s.garbage > s.bytes/8 {
		s.garbage = 0
		runtime.GC()
	}
}
