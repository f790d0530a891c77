package dedup

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/types/known/durationpb"

	controlv1 "sluice/gen/sluice/control/v1"
	eventv1 "sluice/gen/sluice/event/v1"
	"sluice/libs/batch"
	"sluice/libs/checkpoint"
	"sluice/libs/fencedlog"
	"sluice/libs/lanes"
	"sluice/libs/native"
	"sluice/libs/service"
)

const joinLanes = 3

// joinWorld is a pipeline that joins orders, which dedup takes by id and the join by item, with items, which have no dedup.
func joinWorld(t *testing.T) *world {
	w := newWorld(t, time.Hour)
	w.record = &controlv1.PipelineRecord{
		Uid: "u",
		Spec: &controlv1.Pipeline{
			Id: "p", Lanes: joinLanes,
			Sources: map[string]*controlv1.Source{
				"orders": {Dedup: &controlv1.Dedup{Key: []string{"id"}, Window: durationpb.New(time.Hour)}},
				"items":  {},
			},
			Join: &controlv1.Join{Left: "orders", Right: "items", On: []*controlv1.JoinOn{{Left: "item", Right: "item"}}},
		},
		Schemas: []*controlv1.Schema{{Revision: 3, Columns: []*controlv1.SchemaColumn{
			{Name: "id", Type: "UInt64", Source: "orders"},
			{Name: "name", Type: "String", Source: "items"},
			{Name: "note", Type: "String", Source: "orders", DefaultExpression: "'-'"},
		}}},
	}
	return w
}

type order struct{ id, item uint64 }

// batchOf makes a batch of orders, or of items.
func (w *world) batchOf(source string, first int64, rows ...order) []byte {
	var b batch.Builder
	var columns []*native.Column
	types := []string{"UInt64", "String"}
	if source == "items" {
		types = []string{"String"}
	}
	for i, name := range types {
		typ, err := native.ParseType(name)
		require.NoError(w.t, err)
		columns = append(columns, native.NewColumn(typ, i == 1))
	}
	for i, r := range rows {
		b.Add(batch.Row{
			Offset: first + int64(i), Key: [2]uint64{r.id * 0x9e3779b97f4a7c15, r.id}, TimeMS: 1000,
			JoinKey: [2]uint64{r.item << 32, r.item}, EventMS: int64(r.id),
		}, batch.Fields{Keys: source == "orders", Join: true})
		if source == "orders" {
			require.NoError(w.t, columns[0].AppendInt(int64(r.id)))
			if r.id%2 == 0 {
				require.NoError(w.t, columns[1].AppendMissing())
			} else {
				require.NoError(w.t, columns[1].AppendString(fmt.Append(nil, "note ", r.id)))
			}
		} else {
			require.NoError(w.t, columns[0].AppendString(fmt.Append(nil, "item ", r.item)))
		}
	}
	v := batch.View{
		SchemaRevision: 3, Topic: []byte(source), TopicID: []byte("0123456789abcdef"), ArrivalMS: 5000, Source: []byte(source),
		Progress: batch.Progress{MaxEventMS: first, HasMax: true, Partitions: 1},
	}
	if len(rows) > 0 {
		b.View(&v, func(dst []byte) []byte {
			for _, c := range columns {
				dst = batch.AppendColumn(dst, c.AppendWire)
			}
			return dst
		})
	} else {
		v.FirstOffset, v.LastOffset = first, first-1
	}
	return v.Append(nil)
}

// ordersLog is what lane 0 of dedup gets in the tests: repetitions, rows for each lane of the join, a batch without rows, one of which nothing passes,
// one of a source without dedup, one without a join key.
func (w *world) ordersLog() (last uint64) {
	orders, _, err := fencedlog.Open(w.t.Context(), w.js, w.input, "orders-0", fencedlog.Options{Lanes: []int{0}})
	require.NoError(w.t, err)
	items, _, err := fencedlog.Open(w.t.Context(), w.js, w.input, "items-0", fencedlog.Options{Lanes: []int{0}})
	require.NoError(w.t, err)
	for i, m := range []struct {
		writer *fencedlog.Writer
		source string
		rows   []order
	}{
		{orders, "orders", []order{{1, 10}, {2, 11}, {1, 10}, {3, 12}, {4, 12}}},
		{items, "items", []order{{0, 12}, {0, 9}}},
		{orders, "orders", nil},
		{orders, "orders", []order{{2, 11}, {3, 12}}},
		{orders, "orders", []order{{5, 0}, {6, 13}}},
	} {
		last, err = m.writer.Append(w.t.Context(), 0, strconv.Itoa(i+1), w.batchOf(m.source, int64(10*i), m.rows...))
		require.NoError(w.t, err)
	}
	return last
}

// joinRow is a row as the join finds it.
type joinRow struct {
	lane          int
	source        string
	item, id      uint64
	offset, event int64
	note          string
}

// joinRows reads the dedup log: the selected rows, and how many messages there are by lane.
func (w *world) joinRows() (rows []joinRow, messages [joinLanes]int) {
	for lane := range joinLanes {
		end, err := fencedlog.LastOf(w.t.Context(), w.js, w.output, lane)
		require.NoError(w.t, err)
		if end == 0 {
			continue
		}
		r, err := fencedlog.OpenReader(w.t.Context(), w.js, w.output, lane, 1)
		require.NoError(w.t, err)
		for at := uint64(0); at < end; {
			m, err := r.Next(w.t.Context())
			require.NoError(w.t, err)
			at = m.Sequence
			messages[lane]++
			rows = append(rows, w.rowsOf(lane, m)...)
		}
		r.Close()
	}
	return rows, messages
}

func (w *world) rowsOf(lane int, m fencedlog.Message) (rows []joinRow) {
	var v batch.View
	require.NoError(w.t, v.Parse(m.Data))
	require.Empty(w.t, v.Keys)
	require.Empty(w.t, v.Times)
	require.NotZero(w.t, v.Progress.Partitions)
	require.GreaterOrEqual(w.t, v.ArrivalMS, int64(5000))
	if v.Rows == 0 {
		require.Zero(w.t, v.ColumnsSize)
		return nil
	}
	raw, err := v.RawColumns(nil)
	require.NoError(w.t, err)
	first, rest, err := batch.NextColumn(raw)
	require.NoError(w.t, err)
	for row := range v.Rows {
		if !v.Selects(row) {
			continue
		}
		r := joinRow{lane: lane, source: string(v.Source), item: v.JoinKey(row)[0] >> 32, offset: v.Offset(row), event: v.EventTime(row)}
		if r.source == "orders" {
			r.id = binary.LittleEndian.Uint64(first[row*8:])
			second, _, err := batch.NextColumn(rest)
			require.NoError(w.t, err)
			all, mask, err := native.PresenceFromWire(second, v.Rows)
			require.NoError(w.t, err)
			if all || mask[row/8]>>(row%8)&1 == 1 {
				r.note = "present"
			}
		}
		rows = append(rows, r)
	}
	return rows
}

var messagesByLane = [joinLanes]int{4, 3, 2}

var joined = []joinRow{
	{lane: 0, source: "orders", item: 12, id: 3, offset: 3, event: 3, note: "present"},
	{lane: 0, source: "orders", item: 12, id: 4, offset: 4, event: 4},
	{lane: 0, source: "items", item: 12, offset: 10},
	{lane: 0, source: "items", item: 9, offset: 11},
	{lane: 0, source: "orders", item: 0, id: 5, offset: 40, event: 5, note: "present"},
	{lane: 1, source: "orders", item: 10, id: 1, offset: 0, event: 1, note: "present"},
	{lane: 1, source: "orders", item: 13, id: 6, offset: 41, event: 6},
	{lane: 2, source: "orders", item: 11, id: 2, offset: 1, event: 2},
}

// TestTakesBatchesApart: each row goes to the lane of its join key, with all that belongs to it; the lanes without rows hear of the progress.
func TestTakesBatchesApart(t *testing.T) {
	w := joinWorld(t)
	last := w.ordersLog()
	o := newOwner()
	stop := w.running(o, 0)
	require.Eventually(t, func() bool { return o.snapshot().Position == last }, 2*time.Minute, time.Millisecond)
	require.NoError(t, stop(lanes.ErrStopping))
	rows, messages := w.joinRows()
	require.Equal(t, joined, rows)
	require.Equal(t, messagesByLane, messages, "the first batch of orders, and the one without rows, in each lane; the others where they have rows; that of items in its own")
	tally := o.snapshot().Tally
	require.EqualValues(t, 11, tally.Records)
	require.EqualValues(t, 3, tally.Duplicates)
	require.EqualValues(t, 8, tally.Rows)
	require.EqualValues(t, 6, o.snapshot().StateKeys)
}

// TestKeepsWhatTheJoinMayGoBackTo: a lane of the join that has lost its output goes back to an earlier checkpoint, and wants once more what it has taken since then. As long as it may,
// dedup keeps a checkpoint of before that, though the newest of the join has all.
func TestKeepsWhatTheJoinMayGoBackTo(t *testing.T) {
	w := joinWorld(t)
	ctx := t.Context()
	orders, _, err := fencedlog.Open(ctx, w.js, w.input, "orders-0", fencedlog.Options{Lanes: []int{0}})
	require.NoError(t, err)
	for n := range 4 {
		last, err := orders.Append(ctx, 0, strconv.Itoa(n+1), w.batchOf("orders", int64(10*n), order{uint64(n + 1), 10}))
		require.NoError(t, err)
		o := newOwner()
		stop := w.running(o, 0)
		require.Eventually(t, func() bool { return o.snapshot().Position == last }, 2*time.Minute, time.Millisecond)
		require.NoError(t, stop(lanes.ErrStopping))
	}
	keys := func() (keys []string) {
		for _, e := range w.state().GetEarlier() {
			keys = append(keys, e.GetKey())
		}
		return keys
	}
	before := keys()
	require.GreaterOrEqual(t, len(before), 3)
	least := w.state().GetEarlier()[1].GetOutput().GetSequence()
	_, end, err := fencedlog.Bounds(ctx, w.js, w.output)
	require.NoError(t, err)
	newest, _, err := fencedlog.At(ctx, w.js, w.output, end)
	require.NoError(t, err)
	all := &eventv1.Manifest{CoveredSequence: end, CoveredTimeNs: newest.Time.UnixNano()}
	open := func(lane int, keep bool) *checkpoint.Lane {
		l, _, err := checkpoint.Open(ctx, checkpoint.Config{JS: w.js, Pipeline: "p", Stage: fencedlog.Join, Lane: lane, Keep: keep})
		require.NoError(t, err)
		return l
	}
	upTo := func(sequence uint64) func(*eventv1.Manifest) bool {
		return func(m *eventv1.Manifest) bool { return m.GetCoveredSequence() >= sequence }
	}
	require.NoError(t, open(0, false).Save(ctx, all, nil))
	require.NoError(t, open(2, false).Save(ctx, all, nil))
	slow := open(1, true)
	require.NoError(t, slow.Save(ctx, &eventv1.Manifest{CoveredSequence: least}, nil))
	slow.Release(upTo(least))
	require.NoError(t, slow.Save(ctx, all, nil))

	stop := w.running(newOwner(), 0)
	require.Eventually(t, func() bool { return len(keys()) > 0 && keys()[0] != before[0] }, 2*time.Minute, 5*time.Millisecond)
	require.Equal(t, before[1:], keys()[:len(before)-1])
	require.True(t, slow.Release(upTo(end)))
	require.NoError(t, slow.Save(ctx, slow.Saved(), nil))
	require.Eventually(t, func() bool { return len(keys()) == 0 }, 2*time.Minute, 5*time.Millisecond)
	require.NoError(t, stop(lanes.ErrStopping))
}

// faultyLog does its worst to the publish numbered at: every durable step but the checkpoints is one.
type faultyLog struct {
	jetstream.JetStream
	done, crashes bool
	at            int64
	calls         atomic.Int64
	crash         context.CancelCauseFunc
}

func (f *faultyLog) PublishMsg(ctx context.Context, msg *nats.Msg, opts ...jetstream.PublishOpt) (*jetstream.PubAck, error) {
	if f.calls.Add(1)-1 != f.at {
		return f.JetStream.PublishMsg(ctx, msg, opts...)
	}
	if f.done {
		if _, err := f.JetStream.PublishMsg(ctx, msg, opts...); err != nil {
			return nil, err
		}
	}
	if f.crashes {
		f.crash(lanes.ErrLost)
	}
	return nil, errors.New("injected")
}

// TestEveryFaultOfEveryAppend: step 0, 1, 2, … fails, is done but reported as failed, or is the last thing that the process does.
func TestEveryFaultOfEveryAppend(t *testing.T) {
	for name, f := range map[string]*faultyLog{
		"refused": {}, "unheard": {done: true}, "crashed before": {crashes: true}, "crashed after": {done: true, crashes: true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for at := int64(0); ; at++ {
				calls := faultyRun(t, &faultyLog{done: f.done, crashes: f.crashes, at: at})
				if calls <= at {
					require.Greater(t, at, int64(9), "the fence and each message were tried")
					return
				}
			}
		})
	}
}

func faultyRun(t *testing.T, f *faultyLog) int64 {
	w := joinWorld(t)
	defer w.nats.Stop()
	defer w.nc.Close()
	last := w.ordersLog()
	ctx, cancel := context.WithCancelCause(t.Context())
	defer cancel(nil)
	f.JetStream, f.crash = w.js, cancel
	d, err := New(service.Deps{Instance: "i", JS: f, Log: slog.New(slog.DiscardHandler)}, nil)
	require.NoError(t, err)
	o, ended := newOwner(), make(chan error, 1)
	go func() { ended <- d.run(ctx, o, w.record, 0, slog.New(slog.DiscardHandler), 20*time.Millisecond) }()
	require.Eventually(t, func() bool {
		return ctx.Err() != nil || w.publishedUpTo() == last
	}, 2*time.Minute, time.Millisecond)
	cancel(lanes.ErrStopping)
	require.NoError(t, <-ended, "fault at %d", f.at)
	o = newOwner()
	stop := w.running(o, 0) // the next instance
	require.Eventually(t, func() bool { return o.snapshot().Position == last }, 2*time.Minute, time.Millisecond)
	require.NoError(t, stop(lanes.ErrStopping))
	rows, messages := w.joinRows()
	require.Equal(t, joined, rows, "fault at %d", f.at)
	require.Equal(t, messagesByLane, messages, "fault at %d", f.at)
	return f.calls.Load()
}

// publishedUpTo is the input sequence of the last step that is in the log as a whole.
func (w *world) publishedUpTo() (sequence uint64) {
	for lane := range joinLanes {
		at, err := fencedlog.LastPosition(w.t.Context(), w.js, w.output, lane, "0")
		if n, parseErr := strconv.ParseUint(at, 10, 64); err == nil && parseErr == nil {
			sequence = max(sequence, n)
		}
	}
	return sequence
}

// TestHealsWhatIsTakenApart: the ingest log is gone, with what had been put out of it beyond the checkpoint; its rows come again, in other batches
// and in another order.
func TestHealsWhatIsTakenApart(t *testing.T) {
	for name, interval := range map[string]time.Duration{"in a checkpoint": time.Millisecond, "only put out": time.Hour} {
		t.Run(name, func(t *testing.T) {
			w := joinWorld(t)
			last := w.ordersLog()
			d, err := New(service.Deps{Instance: "i", JS: w.js, Log: slog.New(slog.DiscardHandler)}, nil)
			require.NoError(t, err)
			ctx, cancel := context.WithCancelCause(t.Context())
			ended := make(chan error, 1)
			go func() { ended <- d.run(ctx, newOwner(), w.record, 0, slog.New(slog.DiscardHandler), interval) }()
			require.Eventually(t, func() bool { return w.publishedUpTo() == last }, 2*time.Minute, time.Millisecond)
			cancel(lanes.ErrLost)
			require.NoError(t, <-ended)

			require.NoError(t, fencedlog.Remove(t.Context(), w.js, w.input))
			require.NoError(t, fencedlog.Ensure(t.Context(), w.js, w.input, fencedlog.Limits{}))
			orders, _, err := fencedlog.Open(t.Context(), w.js, w.input, "orders-0", fencedlog.Options{Lanes: []int{0}})
			require.NoError(t, err)
			second, _, err := fencedlog.Open(t.Context(), w.js, w.input, "orders-1", fencedlog.Options{Lanes: []int{0}})
			require.NoError(t, err)
			items, _, err := fencedlog.Open(t.Context(), w.js, w.input, "items-0", fencedlog.Options{Lanes: []int{0}})
			require.NoError(t, err)
			send := func(writer *fencedlog.Writer, source string, partition int32, first int64, rows ...order) {
				var v batch.View
				require.NoError(t, v.Parse(w.batchOf(source, first, rows...)))
				v.Partition, v.ArrivalMS = partition, 6000 // it has arrived anew
				last, err = writer.Append(t.Context(), 0, fmt.Sprint(source, first), v.Append(nil))
				require.NoError(t, err)
			}
			send(second, "orders", 1, 0, order{1, 10}, order{7, 10}) // an order that is out, before its own record comes again
			send(orders, "orders", 0, 0, order{1, 10}, order{2, 11})
			send(orders, "orders", 0, 2, order{1, 10}, order{3, 12}, order{4, 12})
			send(orders, "orders", 0, 20, order{2, 11})
			send(orders, "orders", 0, 21, order{3, 12})
			send(orders, "orders", 0, 40, order{5, 0}, order{6, 13}, order{8, 12})
			send(items, "items", 0, 10, order{0, 12}, order{0, 9}, order{0, 3})
			o := newOwner()
			stop := w.running(o, 0)
			require.Eventually(t, func() bool { return o.snapshot().Position == last }, 2*time.Minute, time.Millisecond, "%v", o.snapshot())
			require.NoError(t, stop(lanes.ErrStopping))
			require.Contains(t, o.snapshot().LastError, "lost its tail")
			rows, _ := w.joinRows()
			require.ElementsMatch(t, append([]joinRow{
				{lane: 1, source: "orders", item: 10, id: 7, offset: 1, event: 7, note: "present"},
				{lane: 0, source: "orders", item: 12, id: 8, offset: 42, event: 8},
				{lane: 0, source: "items", item: 3, offset: 12},
			}, joined...), rows)
		})
	}
}
