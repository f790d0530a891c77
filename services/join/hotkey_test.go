//go:build unix

package join

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/types/known/durationpb"

	controlv1 "sluice/gen/sluice/control/v1"
	"sluice/libs/batch"
	"sluice/libs/fencedlog"
	"sluice/libs/lanes"
	"sluice/services/join/internal/state"
)

// crasher ends the lane right after the n-th append to the join log: as kill -9 does, but for the acknowledgement, which is never heard.
type crasher struct {
	jetstream.JetStream
	subject string
	at      int
	seen    int
	cancel  context.CancelCauseFunc
	crashed bool
}

func (c *crasher) PublishMsg(ctx context.Context, m *nats.Msg, opts ...jetstream.PublishOpt) (*jetstream.PubAck, error) {
	if c.crashed {
		return nil, errors.New("crashed")
	}
	ack, err := c.JetStream.PublishMsg(ctx, m, opts...)
	if m.Subject != c.subject {
		return ack, err
	}
	if c.seen++; c.seen == c.at {
		c.crashed = true
		c.cancel(lanes.ErrLost)
		return nil, errors.New("crashed")
	}
	return ack, err
}

// TestHotKeyAndCrashBetweenParts: left rows meet 100 000 right rows of their key and time, most of them on disk. Crashes in the middle repeat none and lose
// none, no message of the log or of the checkpoint is too large, another key does not wait, and what a left row has met is restored as fast as anything.
func TestHotKeyAndCrashBetweenParts(t *testing.T) {
	const hot, each = 100_000, 2000
	w := newWorld(t, func(j *controlv1.Join) { j.Memory = 1 << 20 })
	users, orders := w.producer("users", 0), w.producer("orders", 0)
	for n := 0; n < hot; n += each {
		var events []event
		for i := range each {
			events = append(events, user(100_000, "ann", fmt.Sprintf(`"name-%06d-%s"`, n+i, strings.Repeat("x", 80)), 1, `"pro"`))
		}
		users.send(events...)
	}
	o := newOwner()
	stop := w.running(o, w.js, time.Hour)
	require.EqualValues(t, hot, w.covered(o).GetBufferedRows()["users"])
	require.NoError(t, stop(lanes.ErrStopping), "its last checkpoint")

	users.send(user(100_000, "bob", `"Bob"`, 1, ""))
	orders.send(order(100_000, "ann", "first", 1))
	orders.send(order(100_000, "bob", "other", 1))
	for n := 1; ; n++ {
		o := newOwner()
		ctx, cancel := context.WithCancelCause(t.Context())
		c := &crasher{JetStream: w.js, subject: w.log(fencedlog.Join).Subject(0, "0"), at: 12, cancel: cancel}
		stop := w.runningIn(ctx, cancel, o, c, time.Hour)
		require.Eventually(t, func() bool {
			return ctx.Err() != nil || o.snapshot().GetTally().GetRecords() == hot+3
		}, time.Minute, time.Millisecond)
		if err := stop(lanes.ErrStopping); !c.crashed { // else the fold was ahead of what is appended
			require.NoError(t, err)
			require.Greater(t, n, 3, "crashes")
			break
		}
	}

	// The checkpoint says of each right row that it has met another.
	o = newOwner()
	began := time.Now()
	stop = w.running(o, w.js, time.Hour)
	orders.send(order(100_000, "ann", "second", 1))
	w.covered(o)
	t.Logf("restored %d rows and put out as many in %v", hot, time.Since(began))
	require.NoError(t, stop(lanes.ErrStopping))

	rows, messages := w.output()
	require.Equal(t, 2*hot+1, len(rows)) //nolint:testifylint // Len would print them all
	require.Equal(t, "other Bob 1 1 DEFAULT", rows[hot].text)
	rows = append(rows[:hot:hot], rows[hot+1:]...)
	for i, r := range rows {
		require.EqualValues(t, i%hot, r.origin.RightOffset, "in order, each once")
		require.EqualValues(t, i/hot*2, r.origin.LeftOffset)
	}
	for _, m := range messages {
		require.LessOrEqual(t, m.ColumnsSize, partBytes+4096)
	}
}

// TestManyLeftRowsOfAHotKey: 100 000 left rows of one key, out of order, that a few right rows meet, with little memory and with enough.
func TestManyLeftRowsOfAHotKey(t *testing.T) {
	const hot, each = 100_000, 2000
	for _, memory := range []uint64{1 << 20, 256 << 20} {
		w := newWorld(t, func(j *controlv1.Join) {
			j.Memory, j.Window, j.Grace = memory, durationpb.New(time.Hour), durationpb.New(time.Hour)
		})
		users, orders := w.producer("users", 0), w.producer("orders", 0)
		users.send(user(1_000_000, "ann", `"Ann"`, 1, ""))
		for n := 0; n < hot; n += each {
			var events []event
			for i := range each {
				events = append(events, order(int64((n+i)*7919%hot), "ann", strconv.Itoa(n+i), 1))
			}
			orders.send(events...)
		}
		users.send(user(1_000_001, "ann", `"Ann"`, 2, ""), user(1_000_002, "ann", `"Ann"`, 3, ""))
		o := newOwner()
		began := time.Now()
		stop := w.running(o, w.js, time.Hour)
		s := w.covered(o)
		t.Logf("memory %d: %v", memory, time.Since(began))
		require.EqualValues(t, 3*hot, s.GetTally().GetRows())
		require.EqualValues(t, hot, s.GetTally().GetMatched())
		require.NoError(t, stop(lanes.ErrStopping))
	}
}

// watched is an Emitter that looks how much memory is in use while it is given messages.
type watched struct {
	sized
	most uint64
}

func (w *watched) Append(lane int, encode func([]byte) []byte) error {
	if err := w.sized.Append(lane, encode); err != nil || w.messages%50 != 0 {
		return err
	}
	w.most = max(w.most, heap())
	return nil
}

// heap is the memory in use.
func heap() uint64 {
	var m runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

// TestMemoryOfAHotKey: one batch that leads to two million rows, hundreds of megabytes, is put out in the memory of a few messages.
func TestMemoryOfAHotKey(t *testing.T) {
	const hot, lefts = 100_000, 20
	record := benchRecord(func(*controlv1.Join) {})
	c, f, tally := benchCore(t, record), newFeed(t, record), &batch.Tally{}
	for n := range hot / 1000 {
		step(t, c, uint64(n+1), f.batch("users", 1000, func(int) (uint64, int64) { return 7, 1000 }), tally, &sized{})
	}
	c.rows.Take()
	before, out := heap(), &watched{}
	step(t, c, hot, f.batch("orders", lefts, func(int) (uint64, int64) { return 7, 1000 }), tally, out)
	require.EqualValues(t, hot*lefts, tally.Rows)
	t.Logf("%d messages of %d bytes, compressed; %d MB in use before, %d MB at most", out.messages, out.bytes/out.messages, before>>20, out.most>>20)
	require.Greater(t, out.messages, 400)
	require.Less(t, out.most, before+32<<20)
}

// TestHotKeyOfALookup: 100 000 right rows of one key, on disk, are passed by the watermark at once: each left row meets the newest as of its time, and the
// rows that were replaced do not slow down what comes after them.
func TestHotKeyOfALookup(t *testing.T) {
	const hot, each = 100_000, 2000
	record := benchRecord(func(j *controlv1.Join) {
		j.Kind, j.Window, j.Grace, j.Memory = controlv1.Join_LOOKUP, nil, durationpb.New(time.Hour), 1<<20
	})
	c, f, tally, out := benchCore(t, record), newFeed(t, record), &batch.Tally{}, &sized{}
	sequence := uint64(0)
	send := func(source string, n int, at func(i int) (uint64, int64)) {
		sequence++
		step(t, c, sequence, f.batch(source, n, at), tally, out)
	}
	began := time.Now()
	for n := 0; n < hot; n += each {
		send("users", each, func(i int) (uint64, int64) { return 7, int64(n + i) })
		send("orders", each/10, func(i int) (uint64, int64) { return 7, int64(n + 10*i) })
	}
	require.Greater(t, c.rows.OnDisk(), hot/2)
	later := time.Hour.Milliseconds() + hot
	send("users", 1, func(int) (uint64, int64) { return 8, later })
	send("orders", 1, func(int) (uint64, int64) { return 8, later })
	require.EqualValues(t, hot/10, tally.Matched)
	require.Equal(t, 2, c.rows.Len(state.Right))
	for range 20 {
		later += time.Hour.Milliseconds() + 1
		send("orders", each, func(i int) (uint64, int64) { return 7, later })
		send("users", 1, func(int) (uint64, int64) { return 8, later })
	}
	require.EqualValues(t, hot/10+1+19*each, tally.Matched)
	t.Log(time.Since(began))
}
