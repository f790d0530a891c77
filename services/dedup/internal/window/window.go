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
//   - Event time: the horizon is two windows behind the slowest partition, so that an event up to
//     a whole window late still meets everything within its window, however far ahead the other
//     partitions are read. A later one is judged by what is still visible, and leaves no entry if it
//     is itself older than the horizon: it passes rather than being lost. Times count as at most one
//     window after the batch's arrival, and move the horizon at most up to the arrival: one event
//     with a time in the far future neither stays for ever nor blinds the set.
//     How far a partition has come its writer says: see Follow and package watermark. A partition holds the
//     horizon until it is heard to have had nothing to read for IdleAfter, and again when that has not been
//     confirmed for a while. So memory is what lies between the slowest partition and the fastest, and two windows.
//     As long as a live writer does not say it, as those of earlier versions, or nobody follows, the horizon goes by the
//     rows that have come: two windows behind the slowest writer that has sent one in the last IdleAfter.
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

	"sluice/libs/watermark"
)

// MinTime and MaxTime bound the times that the set tells apart (years 1900 and 2457), in
// milliseconds since 1970; what is beyond counts as the bound.
const (
	MinTime int64 = -2208988800000
	MaxTime int64 = MinTime + timeMask - 1
)

// IdleAfter is how long a partition must have had nothing to read not to hold the event-time horizon back; where that is not said, how far
// its writer's last batch may lag behind the newest one of the lane, by arrival.
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
	// Told: the writer says how far its partition has come with the batch, which is in Progress. For event times only.
	Told     bool
	Progress watermark.Batch
}

// Writer is what the set knows of one producer.
type Writer struct {
	// MaxMS is the largest time that counts, milliseconds since 1970.
	MaxMS int64
	// ArrivalMS is the arrival of its newest batch that had a key.
	ArrivalMS int64
	// Told says whether its newest batch said how far its partition has come.
	Told bool
}

// State is everything that decisions depend on besides the entries.
type State struct {
	HorizonMS int64
	Writers   map[string]Writer
	// Progress is of the partitions, and Confirm as given to Follow. Empty: nobody follows.
	Progress []byte
	Confirm  Confirm
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
	// partitions is how far they have come; nil: the rows tell.
	partitions *watermark.Tracker
	confirm    Confirm

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

// Confirm is how long it is believed that a partition has nothing to read, in milliseconds; 0: for ever.
type Confirm struct {
	MS     int64
	EachMS int64 // at least so long for each partition of the topic
}

// Follow lets the horizon of event times go by how far writers say that their partitions have come, from the next batch on.
func (s *Set) Follow(confirm Confirm) {
	s.confirm = confirm
	config := watermark.Config{
		IdleMS: IdleAfter.Milliseconds(), ConfirmMS: confirm.MS, ConfirmEachMS: map[string]int64{"": confirm.EachMS}, Writers: map[string]int{"": 1},
		// An event that is read late is no older: with the clock, what a topic of long ago gets in a pause would be late.
		Still: true,
	}
	if s.partitions == nil {
		s.partitions = watermark.New(config)
		return
	}
	s.partitions.Adopt(config)
}

// Follows tells whether it does, and what Follow was given.
func (s *Set) Follows() (confirm Confirm, ok bool) { return s.confirm, s.partitions != nil }

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
	st := State{HorizonMS: s.horizon, Writers: w}
	if s.partitions != nil {
		st.Progress, st.Confirm = s.partitions.Append(nil), s.confirm
	}
	return st
}

// clampTime brings a time into the range that the set tells apart.
func clampTime(t int64) int64 { return min(max(t, MinTime), MaxTime) }
