package window

import (
	"encoding/binary"
	"fmt"
)

// Entries leave and enter the set as bytes, little endian: high word of the fingerprint (8), upper
// half of its low word (4), time in milliseconds since 1970 (8), and for keep LATEST version (8).
const (
	entryBytes       = 20
	entryBytesLatest = 28
	// chunkBytes bounds a chunk: small enough to fill segments well, large enough to cost nothing.
	chunkBytes = 64 << 10
)

// EntryBytes is the size of an entry.
func EntryBytes(latest bool) int {
	if latest {
		return entryBytesLatest
	}
	return entryBytes
}

// Chunk is a run of entries in the order of their making.
type Chunk struct {
	Data         []byte
	Entries      int
	MinMS, MaxMS int64
	// HorizonMS is the horizon when the chunk was begun.
	HorizonMS int64
}

// chunks collects the entries made since they were last taken.
type chunks struct {
	entryBytes int
	spanMS     int64 // progress of the horizon that ends a chunk
	list       []Chunk
}

func (c *chunks) add(horizon int64, lo, hi uint64, t int64, version uint64) {
	var open *Chunk
	if n := len(c.list); n > 0 {
		open = &c.list[n-1]
	}
	if open == nil || len(open.Data)+c.entryBytes > chunkBytes || horizon-open.HorizonMS >= c.spanMS {
		c.list = append(c.list, Chunk{MinMS: t, MaxMS: t, HorizonMS: horizon})
		open = &c.list[len(c.list)-1]
	}
	d := open.Data
	if len(d)+c.entryBytes > cap(d) {
		// Doubling from a page on: a quiet lane does not pay for a whole chunk.
		d = append(make([]byte, 0, min(chunkBytes, max(4<<10, 2*cap(d)))), d...)
	}
	d = binary.LittleEndian.AppendUint64(d, hi)
	d = binary.LittleEndian.AppendUint32(d, uint32(lo>>32))
	d = binary.LittleEndian.AppendUint64(d, uint64(t))
	if c.entryBytes == entryBytesLatest {
		d = binary.LittleEndian.AppendUint64(d, version)
	}
	open.Data = d
	open.Entries++
	open.MinMS, open.MaxMS = min(open.MinMS, t), max(open.MaxMS, t)
}

// Take returns the entries made since the last call: with those taken before, and those restored,
// they are the set.
func (s *Set) Take() []Chunk {
	c := s.fresh.list
	s.fresh.list = nil
	return c
}

// RestoreState sets what decisions depend on besides the entries. It comes before Restore.
func (s *Set) RestoreState(st State) error {
	if len(st.Progress) > 0 {
		s.Follow(st.Confirm)
		if _, err := s.partitions.Restore(st.Progress); err != nil {
			return err
		}
	}
	for k, w := range st.Writers {
		s.writers[k] = w
		s.largest = max(s.largest, w.MaxMS)
		s.newest = max(s.newest, w.ArrivalMS)
	}
	horizon := clampTime(st.HorizonMS)
	if len(st.Writers) > 0 {
		// Earlier versions ended all memory, for good, when nothing had a key for a minute.
		horizon = min(horizon, s.largest)
	}
	s.horizon = max(s.horizon, horizon)
	s.sweepAt = s.horizon
	return nil
}

// Reserve makes room for so many entries at once, so that restoring does not grow step by step.
func (s *Set) Reserve(entries int) {
	// A table gets its share and five standard deviations, at the load that growth would leave.
	share := entries / tableCount
	dev := 1
	for dev*dev < share {
		dev++
	}
	homes := (share + 5*dev) * 100 / (fillTo + 5)
	for i := range s.tables {
		if t := &s.tables[i]; t.homes < homes {
			s.resize(t, homes)
		}
	}
}

// Restore adds entries that Take gave, in any order; those older than the horizon are left out.
//
// Order does not matter: under one horizon, of two visible entries of a key that keep LATEST made,
// the later one has the higher version, because the earlier was visible when it was made.
func (s *Set) Restore(data []byte) error {
	size := EntryBytes(s.latest)
	if len(data)%size != 0 {
		return fmt.Errorf("restore %d bytes: not a multiple of an entry of %d", len(data), size)
	}
	var touched uint64
	for len(data) > 0 {
		n := min(len(data), group*size)
		for d := data[:n]; len(d) > 0; d = d[size:] {
			t, hash, _ := split(uint64(binary.LittleEndian.Uint32(d[8:]))<<32, binary.LittleEndian.Uint64(d))
			if tb := &s.tables[t]; tb.slots != nil {
				touched ^= tb.slots[tb.home(hash)].rest
			}
		}
		for d := data[:n]; len(d) > 0; d = d[size:] {
			hi, lo := binary.LittleEndian.Uint64(d), uint64(binary.LittleEndian.Uint32(d[8:]))<<32
			t := clampTime(int64(binary.LittleEndian.Uint64(d[12:])))
			if t < s.horizon {
				continue
			}
			if s.latest {
				s.restoreLatest(lo, hi, t, binary.LittleEndian.Uint64(d[20:]))
			} else {
				s.restoreFirst(lo, hi, t)
			}
		}
		data = data[n:]
	}
	sink(touched)
	return nil
}

func (s *Set) restoreFirst(lo, hi uint64, t int64) {
	n, hash, tag := split(lo, hi)
	tb, e, at := &s.tables[n], slot{hash, tag<<timeBits | stamp(t)}, 0
	if tb.slots != nil {
		at = tb.seek(hash)
		for i := at; tb.slots[i].hash == hash && tb.slots[i].rest != 0; i++ {
			if tb.slots[i].rest == e.rest {
				return
			}
		}
	}
	s.put(tb, at, e, 0)
}

func (s *Set) restoreLatest(lo, hi uint64, t int64, version uint64) {
	n, hash, tag := split(lo, hi)
	tb, at := &s.tables[n], 0
	if tb.slots != nil {
		at = tb.seek(hash)
		for i := at; tb.slots[i].hash == hash && tb.slots[i].rest != 0; i++ {
			if tb.slots[i].rest>>timeBits != tag {
				continue
			}
			if tb.versions[i] < version {
				tb.slots[i].rest, tb.versions[i] = tag<<timeBits|stamp(t), version
			}
			return
		}
	}
	s.put(tb, at, slot{hash, tag<<timeBits | stamp(t)}, version)
}
