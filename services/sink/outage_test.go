package sink

import (
	"encoding/base64"
	"math/rand/v2"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	stagev1 "sluice/gen/sluice/stage/v1"
	"sluice/libs/fencedlog"
	"sluice/libs/lanes"
	"sluice/libs/playground/nats/natstest"
)

// ClickHouse is away while far more comes in than the sink may hold: its memory does not grow with the log, the log
// keeps everything, and everything arrives. However long the outage is, nothing happens in it but more attempts.
func TestLongOutage(t *testing.T) {
	w := newWorld(t, 1)
	proxy := natstest.NewProxy(t, w.record.GetSpec().GetSink().GetClickhouse().GetAddr()[0])
	w.record.GetSpec().GetSink().GetClickhouse().Addr = []string{proxy.Addr()}
	w.record.GetSpec().GetBatch().Bytes = 1 << 20
	proxy.Cut()
	w.logOnly = true
	const messages, perMessage = 240, 100
	random := rand.NewChaCha8([32]byte{1}) // what compresses would leave the log small
	filler := make([]byte, 3000)           // as text 400 KB a message, 96 MB in all
	send := func(from, to int) {
		for m := from; m < to; m++ {
			events := uniform(m*perMessage, perMessage)
			for i := range events {
				_, _ = random.Read(filler)
				events[i].Text += base64.StdEncoding.EncodeToString(filler)
			}
			w.send(0, events)
		}
	}
	send(0, 20)
	o := newOwner()
	l := w.lane(o, "one", 0, w.js)
	l.pace = pace{time.Millisecond, 2 * time.Millisecond} // hundreds of attempts in a second
	stop := start(t, l)
	require.Eventually(t, func() bool { return o.snapshot().GetCondition() == stagev1.UnitStatus_WAITING }, patience, time.Millisecond)
	heap := func() uint64 {
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	before := heap()
	send(20, messages)
	after := heap()
	grown := (int64(after) - int64(before)) >> 20
	stream, err := w.js.Stream(t.Context(), fencedlog.Log{Pipeline: "p", Stage: fencedlog.Ingest}.Stream())
	require.NoError(t, err)
	inLog := stream.CachedInfo().State.Bytes >> 20
	require.Greater(t, inLog, uint64(80), "MiB in the log")
	t.Logf("heap with the first blocks in the log: %d MiB, with %d MiB in the log: %+d MiB", before>>20, inLog, grown)
	// Two blocks and what is read ahead (16 MiB), and the servers of the test are in the same heap.
	require.Less(t, grown, int64(40))
	require.Equal(t, stagev1.UnitStatus_WAITING, o.snapshot().GetCondition())
	require.Zero(t, o.settled())
	proxy.Mend()
	o.waitFor(t, messages*perMessage)
	require.Equal(t, "24000/24000", w.table())
	require.NoError(t, stop(lanes.ErrStopping))
	require.Empty(t, w.letters())
}

// Whoever takes a lane over while ClickHouse is away waits for it, visibly, to end what the owner before may still be
// sending; it does not send before.
func TestTakeOverWaitsForThePredecessorsEnd(t *testing.T) {
	w := newWorld(t, 1)
	address := w.record.GetSpec().GetSink().GetClickhouse().GetAddr()[0]
	proxy := natstest.NewProxy(t, address)
	// The first dies with a block pending.
	answers := newOneWay(t, address)
	answers.after.Store(20_000)
	w.record.GetSpec().GetSink().GetClickhouse().Addr = []string{answers.listener.Addr().String()}
	kill := w.start(newOwner(), "one", 0, w.js)
	w.send(0, uniform(0, 900))
	require.Eventually(t, func() bool { return w.table() == "900/900" }, patience, time.Millisecond)
	_ = kill(lanes.ErrLost)

	proxy.Cut()
	w.record.GetSpec().GetSink().GetClickhouse().Addr = []string{proxy.Addr()}
	o := newOwner()
	stop := w.start(o, "two", 0, w.js)
	require.Eventually(t, func() bool {
		return o.snapshot().GetCondition() == stagev1.UnitStatus_WAITING && strings.Contains(o.snapshot().GetLastError(), "end the insert of the lane's owner before")
	}, patience, time.Millisecond)
	proxy.Mend()
	o.waitFor(t, 900)
	require.Equal(t, "900/900", w.table())
	require.NoError(t, stop(lanes.ErrStopping))
}
