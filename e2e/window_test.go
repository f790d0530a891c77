//go:build unix

package e2e

import (
	"strconv"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	"sluice/e2e/internal/stack"
	controlv1 "sluice/gen/sluice/control/v1"
	eventv1 "sluice/gen/sluice/event/v1"
	"sluice/libs/batch"
	"sluice/libs/checkpoint"
	"sluice/libs/fencedlog"
	"sluice/libs/registry"
)

const day = 24 * time.Hour

// windowed is a dedup process between two logs that the test writes and reads itself: so that it decides when events arrive.
type windowed struct {
	*stack.Process
	t         *testing.T
	js        jetstream.JetStream
	registry  *registry.Registry
	in        *fencedlog.Writer
	out       *fencedlog.Reader
	offset    int64
	pipeline  string
	unsettled []int64           // offsets sent and not looked at yet
	passed    map[uint64]int64  // the model: when a key passed last
	dropped   map[int64]bool    // the model: what must have been dropped, by offset
	history   map[int64]arrival // by offset
	windowMS  int64
}

type arrival struct {
	key uint64
	at  int64
}

func newWindowed(t *testing.T, window time.Duration) *windowed {
	t.Helper()
	s := stack.New(t, bin(t))
	s.NATS.Start()
	nc, err := nats.Connect("nats://"+s.NATSAddr, nats.RetryOnFailedConnect(true), nats.MaxReconnects(-1), nats.ReconnectWait(50*time.Millisecond))
	require.NoError(t, err)
	t.Cleanup(nc.Close)
	js, err := jetstream.New(nc)
	require.NoError(t, err)
	w := &windowed{
		Process: s.Service("dedup"), t: t, js: js, pipeline: "weeks", windowMS: window.Milliseconds(),
		passed: map[uint64]int64{}, dropped: map[int64]bool{}, history: map[int64]arrival{},
	}
	ctx := t.Context()
	w.registry, err = registry.Open(ctx, js)
	require.NoError(t, err)
	in, out := fencedlog.Log{Pipeline: w.pipeline, Stage: fencedlog.Ingest}, fencedlog.Log{Pipeline: w.pipeline, Stage: fencedlog.Dedup}
	for _, log := range []fencedlog.Log{in, out} {
		require.NoError(t, fencedlog.Ensure(ctx, js, log, fencedlog.Limits{}))
	}
	_, err = js.CreateKeyValue(ctx, jetstream.KeyValueConfig{Bucket: checkpoint.Bucket(w.pipeline)})
	require.NoError(t, err)
	_, err = w.registry.Create(ctx, &controlv1.PipelineRecord{
		Uid: "u", Desired: controlv1.DesiredState_RUNNING, Generation: 1, Spec: &controlv1.Pipeline{
			Id: w.pipeline, Lanes: 1, Dedup: &controlv1.Dedup{Key: []string{"id"}, Window: durationpb.New(window)},
		},
	})
	require.NoError(t, err)
	w.in, _, err = fencedlog.Open(ctx, js, in, "0", fencedlog.Options{Lanes: []int{0}})
	require.NoError(t, err)
	w.out, err = fencedlog.OpenReader(ctx, js, out, 0, 1)
	require.NoError(t, err)
	t.Cleanup(w.out.Close)
	return w
}

// arrive appends a batch of keys that all arrived at that time, and notes what has to become of them.
func (w *windowed) arrive(at int64, keys ...uint64) {
	w.t.Helper()
	var b batch.Builder
	for _, key := range keys {
		b.Add(batch.Row{Offset: w.offset, Key: [2]uint64{key * 0x9e3779b97f4a7c15, key}}, batch.Fields{Keys: true})
		before, seen := w.passed[key]
		if seen && at-before <= w.windowMS {
			w.dropped[w.offset] = true
		} else {
			w.passed[key] = at
		}
		w.history[w.offset] = arrival{key, at}
		w.unsettled = append(w.unsettled, w.offset)
		w.offset++
	}
	b.SetTimes(at)
	var v batch.View
	b.View(&v, func(dst []byte) []byte { return append(dst, "columns"...) })
	v.Topic, v.ArrivalMS = []byte("events"), at
	_, err := w.in.Append(w.t.Context(), 0, strconv.FormatInt(w.offset, 10), v.Append(nil))
	require.NoError(w.t, err)
}

// check reads what dedup has made of everything that has arrived since the last check, and waits for it.
func (w *windowed) check(what string) {
	w.t.Helper()
	for len(w.unsettled) > 0 {
		m, err := w.out.Next(w.t.Context())
		require.NoError(w.t, err, what)
		var v batch.View
		require.NoError(w.t, v.Parse(m.Data))
		for row := range v.Rows {
			offset := v.Offset(row)
			require.Equal(w.t, w.unsettled[0], offset, what)
			w.unsettled = w.unsettled[1:]
			from := w.history[offset]
			require.Equal(w.t, !w.dropped[offset], v.Selects(row), "%s: key %d, arrived at %d", what, from.key, from.at)
		}
	}
}

// keys is how many keys the lane says that it holds.
func (w *windowed) keys() (keys uint64) {
	all, err := w.registry.Statuses(w.t.Context(), w.pipeline)
	require.NoError(w.t, err)
	for _, s := range all {
		keys += s.GetStateKeys()
	}
	return keys
}

// A key seen 6 d 23 h ago is a duplicate, one seen 7 d ago to the millisecond still is, one seen 7 d 1 ms ago is not: through real
// NATS and the real service, with restarts of both kinds in between and the service down while it happens.
func TestSevenDayWindow(t *testing.T) {
	w := newWindowed(t, 7*day)
	const start = int64(1_790_000_000_000)
	at := func(d time.Duration) int64 { return start + d.Milliseconds() }
	hour := time.Hour
	filler := func(from uint64) (keys []uint64) {
		for i := range uint64(2000) {
			keys = append(keys, 1_000_000+from*2000+i)
		}
		return keys
	}

	w.Start()
	w.arrive(start, 1, 2, 3, 4, 5, 1)
	w.check("the beginning")
	for n := range 3 {
		w.arrive(at(time.Duration(n+1)*day), filler(uint64(n))...)
		w.check("filler")
		if n%2 == 0 {
			w.Kill() // what is not in a checkpoint is folded again
		} else {
			require.Zero(t, w.Stop(), "SIGTERM leaves a checkpoint")
		}
		w.Start()
	}
	w.arrive(at(4*day), 5)
	w.check("after three restarts")
	require.Zero(t, w.Stop())

	// Nobody is there when these arrive.
	w.arrive(at(5*day), filler(7)...)
	w.arrive(at(6*day+23*hour), 1)
	w.arrive(at(7*day), 2, 1)
	w.arrive(at(7*day)+1, 3)
	w.Start()
	w.check("while dedup was down")
	require.True(t, w.dropped[w.offset-4], "6 d 23 h")
	require.True(t, w.dropped[w.offset-3], "7 d")
	require.False(t, w.dropped[w.offset-1], "7 d 1 ms")

	// The same with the service up, and killed right after: from the log, not from a checkpoint.
	w.arrive(at(7*day)+1, 4, 3, 1)
	w.check("up")
	w.Kill()
	w.Start()
	w.arrive(at(7*day)+2, 4, 1, 3, 5)
	w.check("killed")
	require.Zero(t, w.Stop())
	w.arrive(at(14*day)+1, 3, 4)
	w.Start()
	w.check("14 days: exactly 7 since they passed")
	require.True(t, w.dropped[w.offset-1])
	w.arrive(at(14*day)+2, 3, 4, 5)
	w.check("14 days and a millisecond")
	require.False(t, w.dropped[w.offset-2])
	require.True(t, w.dropped[w.offset-1], "5 passed a millisecond later")

	// What has expired takes no room: the filler is gone, from memory and from the checkpoint.
	w.arrive(at(22*day), 6)
	w.check("three weeks")
	stack.Await(t, stack.Up, "one key is left", func() (bool, any) {
		n := w.keys()
		return n == 1, n
	})
	require.Zero(t, w.Stop())
	kv, err := w.js.KeyValue(t.Context(), checkpoint.Bucket(w.pipeline))
	require.NoError(t, err)
	entry, err := kv.Get(t.Context(), "dedup.0.manifest")
	require.NoError(t, err)
	var manifest eventv1.Manifest
	require.NoError(t, proto.Unmarshal(entry.Value(), &manifest))
	entries := uint32(0)
	for _, segment := range manifest.GetSegments() {
		entries += segment.GetEntries()
	}
	require.Less(t, entries, uint32(10), "entries that a restart would read")
	t.Logf("%d events, %d dropped; %d entries are left", w.offset, len(w.dropped), entries)
}
