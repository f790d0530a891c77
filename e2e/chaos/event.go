package main

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"strconv"
	"time"
)

// Event is one record: the n-th that was sent, a copy of the event id. Copies differ in n and text, so that a row tells
// which of them it is.
type Event struct {
	ID, N uint64
}

// firstEvent is the time of the first one.
var firstEvent = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

// Key is the record's key: all copies of an event are in one partition, so that one of them is the first.
func (e Event) Key() []byte { return strconv.AppendUint(nil, e.ID, 10) }

// Partition of the event's copies.
func (e Event) Partition(partitions int) int32 {
	return int32(e.ID * 0x9e3779b97f4a7c15 >> 33 % uint64(partitions))
}

// Text is what the copy says.
func (e Event) Text() string {
	x := e.N*0x9e3779b97f4a7c15 + 1
	y := x * 0xbf58476d1ce4e5b9
	return fmt.Sprintf("copy %d %016x %016x %016x", e.N, x, y, x^y>>7)
}

// JSON is the record's value.
func (e Event) JSON() []byte {
	at := firstEvent.Add(time.Duration(e.N) * 100 * time.Millisecond)
	return fmt.Appendf(nil, `{"id":%d,"n":%d,"text":%q,"at":%q}`, e.ID, e.N, e.Text(), at.Format(time.RFC3339Nano))
}

// parseEvent reads what JSON wrote.
func parseEvent(value []byte) (e Event, err error) {
	rest, ok := bytes.CutPrefix(value, []byte(`{"id":`))
	id, rest, ok2 := bytes.Cut(rest, []byte(`,"n":`))
	n, _, ok3 := bytes.Cut(rest, []byte{','})
	if !ok || !ok2 || !ok3 {
		return e, fmt.Errorf("not an event: %.80q", value)
	}
	if e.ID, err = strconv.ParseUint(string(id), 10, 64); err != nil {
		return e, fmt.Errorf("not an event: %.80q: %w", value, err)
	}
	if e.N, err = strconv.ParseUint(string(n), 10, 64); err != nil {
		return e, fmt.Errorf("not an event: %.80q: %w", value, err)
	}
	return e, nil
}

// Feed makes the sequence of events of a seed: a quarter are copies of earlier ones, half of those of the newest, which
// often meet in one batch, half of any time before.
type Feed struct {
	r    *rand.Rand
	sent uint64
	ids  uint64
}

func newFeed(seed uint64) *Feed { return &Feed{r: rand.New(rand.NewPCG(seed, 0xfeed))} }

// Next returns the next event.
func (f *Feed) Next() Event {
	f.sent++
	if f.ids == 0 || f.r.IntN(4) > 0 {
		f.ids++
		return Event{ID: f.ids, N: f.sent}
	}
	back := f.ids
	if f.r.IntN(2) == 0 {
		back = min(back, 200)
	}
	return Event{ID: f.ids - f.r.Uint64N(back), N: f.sent}
}
