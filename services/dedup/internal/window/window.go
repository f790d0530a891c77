// Package window is the windowed set of keys that decides which events are duplicates.
//
// It is a pure core: no I/O, no goroutine, no clock. Decisions depend on the batches admitted, in
// their order, and on nothing else; in particular not on when memory was swept, when a checkpoint
// was taken, or whether the set was restored from one.
//
// An event (key, t) is a duplicate if and only if a visible entry of its key has a time t' with
// |t - t'| ≤ window. An event that is no duplicate passes and becomes an entry; a duplicate leaves
// no trace, so the window counts from the event that passed. Entries older than the horizon are
// invisible, whether or not memory still holds them. The horizon never goes back.
//
//   - Arrival time: times are made monotone (an event is never older than the one before it), and
//     the horizon is the newest time minus the window. Exact to the millisecond.
//   - Event time: the horizon is two windows behind the slowest live writer, so that an event up to
//     a whole window late still meets everything within its window. A later one is judged by what
//     is still visible, and leaves no entry if it is itself older than the horizon: it passes
//     rather than being lost. Times count as at most one window after the batch's arrival, and move
//     the horizon at most up to the arrival: one event with a time in the far future neither stays
//     for ever nor blinds the set.
//   - Keep latest: one entry a key. An event passes if and only if no visible entry of its key has
//     a version at or above its own; it then replaces the entry.
//
// What is not guaranteed: keys are compared by 92 bits of their fingerprint. With 100 million keys
// in the set, a new key is mistaken for a known one with a probability of 2e-20.
package window

import (
	"fmt"
	"math"
	"time"
)

// MinTime and MaxTime bound the times that the set tells apart (years 1900 and 2457), in
// milliseconds since 1970; what is beyond counts as the bound.
const (
	MinTime int64 = -2208988800000
	MaxTime int64 = MinTime + timeMask - 1
)

// IdleAfter is how far a writer's last batch may lag behind the newest one of the lane, by arrival,
// before the writer no longer holds the event-time horizon back.
const IdleAfter = time.Minute

// Config says what a duplicate is. It must not change during the life of a set, but for Window
// (see SetWindow).
type Config struct {
	// Window is how long a key is remembered; whole milliseconds, at least one.
	Window time.Duration
	// Latest selects keep LATEST: batches must carry versions.
	Latest bool
	// EventTime: times are event times, in any order; else they are arrival times.
	EventTime bool
}

// Batch is what the set needs of an EventBatch, in the layouts of the EventBatch.
type Batch struct {
	// Writer is the producer of the batch: its times advance on their own.
	Writer string
	// ArrivalMS is when the batch was received, milliseconds since 1970.
	ArrivalMS int64
	Rows      int
	// Keys is Rows × 16 bytes, little endian, low word first. A fingerprint of zero is no key: the
	// row passes and is not remembered.
	Keys []byte
	// Times is Rows × 8 bytes, little endian milliseconds since 1970.
	Times []byte
	// Versions is Rows × 8 bytes, little endian; for keep LATEST only.
	Versions []byte
	// Selection has a bit a row, lowest first. Rows that are out are not looked at; the bits of
	// duplicates are cleared.
	Selection []byte
}

// Writer is what the set knows of one producer.
type Writer struct {
	// MaxMS is the largest time that counts, milliseconds since 1970.
	MaxMS int64
	// ArrivalMS is the arrival of its newest batch.
	ArrivalMS int64
}

// State is everything that decisions depend on besides the entries.
type State struct {
	HorizonMS int64
	Writers   map[string]Writer
}

// Set is the windowed set of one lane. It is not safe for concurrent use.
type Set struct {
	latest    bool
	eventTime bool
	windowMS  int64

	// Invariant: horizon never decreases; largest is the maximum of the writers' MaxMS.
	horizon int64
	largest int64
	newest  int64 // newest arrival seen
	writers map[string]Writer

	tables  [tableCount]table
	entries int
	bytes   int
	garbage int // bytes of slots given up since the last collection

	sweepNext int   // table to sweep next
	sweepAt   int64 // horizon at which it is due

	late  uint64
	fresh chunks
}

// New makes an empty set.
func New(c Config) (*Set, error) {
	s := &Set{
		latest: c.Latest, eventTime: c.EventTime,
		horizon: MinTime, largest: MinTime, newest: math.MinInt64,
		writers: map[string]Writer{},
	}
	s.fresh.entryBytes = EntryBytes(c.Latest)
	if err := s.SetWindow(c.Window); err != nil {
		return nil, err
	}
	return s, nil
}

// SetWindow changes the window for the batches to come. A longer window does not bring back what
// the shorter one has forgotten.
func (s *Set) SetWindow(w time.Duration) error {
	if w < time.Millisecond || w%time.Millisecond != 0 {
		return fmt.Errorf("window %v: must be whole milliseconds, at least one", w)
	}
	s.windowMS = w.Milliseconds()
	s.fresh.spanMS = max(1, s.windowMS/16)
	return nil
}

// Window returns the window in force.
func (s *Set) Window() time.Duration { return time.Duration(s.windowMS) * time.Millisecond }

// Len returns the number of entries in memory: the visible ones and those not swept yet, which are
// at most an eighth of a window older.
func (s *Set) Len() int { return s.entries }

// Bytes returns the memory of the tables.
func (s *Set) Bytes() int { return s.bytes }

// Late returns how many events passed without an entry since the set was made, because their time
// was older than the horizon: repetitions of them are not noticed.
func (s *Set) Late() uint64 { return s.late }

// Horizon returns the time, milliseconds since 1970, below which entries are invisible.
func (s *Set) Horizon() int64 { return s.horizon }

// State returns a copy of what a checkpoint needs besides the entries.
func (s *Set) State() State {
	w := make(map[string]Writer, len(s.writers))
	for k, v := range s.writers {
		w[k] = v
	}
	return State{HorizonMS: s.horizon, Writers: w}
}

// clampTime brings a time into the range that the set tells apart.
func clampTime(t int64) int64 { return min(max(t, MinTime), MaxTime) }
