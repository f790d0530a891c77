package main

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"strconv"
	"strings"
	"time"
)

const (
	// pace is how much faster event time goes on than the clock, when the machine keeps up with the rate: grace is over after some seconds.
	pace = 30
	// disorder is how far event times are out of order.
	disorder = 5 * time.Second
	// noKey in so many events has no join key.
	noKey = 100
)

// epoch is where event time begins.
var epoch = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

// JoinEvent is one record of either side: the n-th that was sent, on the left a copy of the event id.
type JoinEvent struct {
	Right bool
	ID, N uint64
	User  uint64 // join key; 0: none
	At    time.Time
}

// Record is the event as it is sent. All copies are in one partition, so that one of them is the first, and all right events of a key, so that one of them
// is the last. The sides write time and key each in a form of its own.
func (e JoinEvent) Record() Record {
	t, id, user := leftTopic, e.ID, ""
	if e.Right {
		t, id = rightTopic, e.N
	}
	if e.User > 0 {
		user = fmt.Sprintf(`,"%s":%q`, map[bool]string{false: "user", true: "name"}[e.Right], userName(e.User))
	}
	place := id
	if e.Right && e.User > 0 {
		place = e.User
	}
	r := Record{Topic: t.Name, Partition: Event{ID: place}.Partition(int(t.Partitions)), Key: strconv.AppendUint(nil, id, 10)}
	if e.Right {
		r.Value = fmt.Appendf(nil, `{"n":%d,"at":%d,"text":%q%s}`, e.N, e.At.UnixMilli(), e.Text(), user)
	} else {
		r.Value = fmt.Appendf(nil, `{"id":%d,"n":%d,"at":%q,"text":%q%s}`, e.ID, e.N, e.At.Format("2006-01-02T15:04:05.000Z"), e.Text(), user)
	}
	return r
}

// Text is what the record says. It is long so that what waits does not fit into the memory that there is for it.
func (e JoinEvent) Text() string { return strings.Repeat(Event{N: e.N}.Text()+"; ", 12) }

func userName(user uint64) string { return fmt.Sprintf("%d@übung.example", user) }

// parseJoinEvent reads what Record wrote.
func parseJoinEvent(right bool, value []byte) (e JoinEvent, err error) {
	var x struct {
		ID, N      uint64
		At         json.RawMessage
		User, Name string
	}
	if err := json.Unmarshal(value, &x); err != nil {
		return e, fmt.Errorf("not an event: %.80q: %w", value, err)
	}
	e = JoinEvent{Right: right, ID: x.ID, N: x.N}
	name := x.User
	if right {
		name = x.Name
		var ms int64
		if err = json.Unmarshal(x.At, &ms); err == nil {
			e.At = time.UnixMilli(ms).UTC()
		}
	} else {
		err = json.Unmarshal(x.At, &e.At)
	}
	if err == nil && name != "" {
		_, err = fmt.Sscanf(name, "%d@übung.example", &e.User)
	}
	if err != nil {
		return e, fmt.Errorf("not an event: %.80q: %w", value, err)
	}
	return e, nil
}

// JoinFeed makes the sequence of events of a seed, half of them left. A quarter of the left ones are copies of earlier ones, as in Feed. The key of
// an event is one of those that are in use at the time: each is in six events or so, which lie up to three windows apart, so that
// there are left rows that meet nobody, one, and several.
type JoinFeed struct {
	r    *rand.Rand
	sent uint64
	step time.Duration // of event time, from one event to the next
	span uint64        // events in which a key may come
	left []JoinEvent   // first copies, by id - 1
}

func newJoinFeed(seed uint64, rate int) *JoinFeed {
	step := (pace * time.Second / time.Duration(rate)).Truncate(time.Microsecond)
	return &JoinFeed{r: rand.New(rand.NewPCG(seed, 0x101)), step: step, span: uint64(3 * joinWindow / step)}
}

// Next returns the next event.
func (f *JoinFeed) Next() JoinEvent {
	e := f.next(f.r.IntN(2) == 0)
	e.At = f.now().Add(-time.Duration(f.r.Int64N(int64(disorder)))).Truncate(time.Millisecond)
	if e.Right {
		e.User = f.user()
		return e
	}
	if len(f.left) > 0 && f.r.IntN(4) == 0 {
		back := len(f.left)
		if f.r.IntN(2) == 0 {
			back = min(back, 200)
		}
		first := f.left[len(f.left)-1-f.r.IntN(back)]
		e.ID, e.User = first.ID, first.User
		return e
	}
	e.ID, e.User = uint64(len(f.left)+1), f.user()
	f.left = append(f.left, e)
	return e
}

// Last returns an event without a key that is later than any other, by enough to decide them all.
func (f *JoinFeed) Last(right bool) JoinEvent {
	e := f.next(right)
	e.At = f.now().Add(joinGrace + joinWindow + time.Hour).Truncate(time.Millisecond)
	if !right {
		e.ID = uint64(len(f.left) + 1)
		f.left = append(f.left, e)
	}
	return e
}

func (f *JoinFeed) next(right bool) JoinEvent {
	f.sent++
	return JoinEvent{Right: right, N: f.sent}
}

func (f *JoinFeed) now() time.Time { return epoch.Add(time.Duration(f.sent) * f.step) }

func (f *JoinFeed) user() uint64 {
	if f.r.IntN(noKey) == 0 {
		return 0
	}
	return (f.sent+f.r.Uint64N(f.span))/6 + 1
}
