package dedup

import (
	"context"
	"encoding/binary"
	"log/slog"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	controlv1 "sluice/gen/sluice/control/v1"
	eventv1 "sluice/gen/sluice/event/v1"
	"sluice/libs/batch"
	"sluice/libs/fold"
	"sluice/libs/lanes"
	"sluice/libs/spec"
)

// timed is an event: its key and its own time.
type timed struct {
	key uint64
	ms  int64
}

// reader is a Kafka partition as an ingestor reads it, which says how far it has come.
type reader struct {
	*producer
	number, of int32
	max        int64
	any        bool
	silent     bool // as an earlier version, that does not say it
}

func (r *reader) batch(idleSince int64, events ...timed) *eventv1.EventBatch {
	b := &eventv1.EventBatch{
		Format: 2, SchemaRevision: 3, Rows: uint32(len(events)), Selected: uint32(len(events)), ArrivalMs: r.arrival,
		Kafka: &eventv1.KafkaRange{Topic: "t", TopicId: []byte("0123456789abcdef"), Partition: r.number, FirstOffset: r.offset, LastOffset: r.offset + int64(len(events)) - 1},
	}
	if len(events) > 0 {
		b.Columns = []byte("columns")
		b.ColumnsSize = uint32(len(b.Columns))
	}
	for i, e := range events {
		b.Keys = binary.LittleEndian.AppendUint64(b.Keys, e.key*0x9e3779b97f4a7c15)
		b.Keys = binary.LittleEndian.AppendUint64(b.Keys, e.key*0xd1342543de82ef95)
		b.Times = binary.LittleEndian.AppendUint64(b.Times, uint64(e.ms))
		b.Offsets = binary.LittleEndian.AppendUint32(b.Offsets, uint32(i))
		if !r.any || e.ms > r.max {
			r.max, r.any = e.ms, true
		}
	}
	if r.silent {
		b.Format = 1
		return b
	}
	b.Progress = &eventv1.Progress{IdleSinceMs: idleSince, Partitions: uint32(r.of), TellsDedup: true}
	if r.any {
		b.Progress.MaxDedupMs = &r.max
	}
	return b
}

func byTime(w *world) *world {
	w.record.Spec.Dedup.Time = "at"
	return w
}

// One partition is read far ahead of the other, as after a backlog or while the other one's leader is down. Repetitions of what the first one had are dropped all
// the same, whatever is killed when; batches without rows go no further.
func TestPartitionsReadApart(t *testing.T) {
	const window = time.Minute
	w := byTime(newWorld(t, window))
	stop := w.running(newOwner(), 0)
	rng := rand.New(rand.NewPCG(1, 2))
	const start, events = int64(1_700_000_000_000), 400
	ahead := &reader{producer: w.producer("0", 0), number: 0, of: 2}
	behind := &reader{producer: w.producer("1", 0), number: 1, of: 2}
	ahead.arrival, behind.arrival = start+int64(48*time.Hour/time.Millisecond), start+int64(48*time.Hour/time.Millisecond)
	at := func(i int) int64 { return start + int64(i)*60_000 }
	restart := func() {
		cause := []error{lanes.ErrLost, lanes.ErrStopping}[rng.IntN(2)]
		require.NoError(t, stop(cause))
		stop = w.running(newOwner(), 0)
	}
	outputs, dropped := 0, 0
	for i := range events {
		ahead.arrival += 500 // the last one is three minutes later by the clock
		ahead.append(ahead.batch(0, timed{uint64(i + 1), at(i)}))
		outputs++
		if i == 0 {
			behind.append(behind.batch(0, timed{1_000_000, at(0)}))
			outputs++
		}
		if i%100 == 99 {
			restart()
		}
	}
	for i := range events {
		behind.arrival = ahead.arrival + int64(i)
		// A repetition from a minute before to a minute after, up to a minute out of order.
		behind.append(behind.batch(0, timed{uint64(i + 1), at(i) - rng.Int64N(60_001)}))
		outputs, dropped = outputs+1, dropped+1
		if i%100 == 50 {
			behind.append(behind.batch(0)) // a heartbeat
			restart()
		}
	}
	var passed []uint64
	for _, b := range w.outputs(outputs)[events+1:] {
		require.Zero(t, b.Selected, "a repetition passed at %d", b.InputSequence)
		passed = append(passed, b.InputSequence)
	}
	require.Len(t, passed, dropped)
	require.NoError(t, stop(lanes.ErrStopping))
	require.Equal(t, outputs, w.count())
	for _, b := range w.outputs(outputs) {
		require.EqualValues(t, 1, b.Format)
		require.Nil(t, b.Progress)
	}
}

// coreOf is a core of the world's only lane as it is after a start.
func (w *world) coreOf(m *eventv1.Manifest, segments [][]byte) *core {
	c, err := newCore(w.record, 0, spec.CurrentLanes(w.record), slog.New(slog.DiscardHandler))
	require.NoError(w.t, err)
	m = proto.CloneOf(m)
	for _, data := range segments {
		m.Segments = append(m.Segments, &eventv1.Segment{Entries: uint32(len(data) / 20)})
	}
	require.NoError(w.t, c.Restore(context.Background(), m, func(each func(*eventv1.Segment, []byte) error) error {
		for i, data := range segments {
			if err := each(m.Segments[i], data); err != nil {
				return err
			}
		}
		return nil
	}))
	return c
}

type nowhere struct{ fold.Emitter }

func (nowhere) Append(_ int, encode func([]byte) []byte) error { encode(nil); return nil }

// folds takes a batch in and tells how many rows of it pass.
func (c *core) folds(t *testing.T, writer string, b *eventv1.EventBatch) int {
	data, err := proto.Marshal(b)
	require.NoError(t, err)
	var v batch.View
	require.NoError(t, v.Parse(data))
	require.NoError(t, c.Step(fold.Input{Sequence: 1, Writer: writer, View: &v, Tally: &batch.Tally{}}, nowhere{}))
	return v.Selected
}

// What was put out by an earlier version is replayed by its rule; the change to the new one is on record before anything is put out by it. What an earlier ingestor
// writes is judged as it was.
func TestProgressIsAdopted(t *testing.T) {
	w := byTime(&world{t: t, record: &controlv1.PipelineRecord{Uid: "u", Spec: &controlv1.Pipeline{
		Id: "p", Lanes: 1, Dedup: &controlv1.Dedup{Key: []string{"id"}, Window: durationpb.New(time.Second)},
	}}})
	zero, one := &reader{producer: &producer{arrival: 100_000}, of: 2}, &reader{producer: &producer{arrival: 100_000}, number: 1, of: 2}
	c := w.coreOf(&eventv1.Manifest{}, nil)
	// As an earlier version: what is to come of partition 1 is forgotten with what partition 0 has come to.
	require.Equal(t, 1, c.folds(t, "0", zero.batch(0, timed{1, 1000})))
	require.Equal(t, 1, c.folds(t, "0", zero.batch(0, timed{2, 50_000})))
	require.EqualValues(t, 48_000, c.branches[""].set.Horizon())
	m := &eventv1.Manifest{}
	var segments [][]byte
	for _, chunk := range c.Checkpoint(m) {
		segments = append(segments, chunk.Data)
	}
	require.Empty(t, m.GetCore(), "as earlier versions wrote it")

	c = w.coreOf(m, segments)
	require.Equal(t, 1, c.folds(t, "0", zero.batch(0, timed{3, 51_000})))
	require.EqualValues(t, 49_000, c.branches[""].set.Horizon(), "a replay goes by the rule of then")
	changed, err := c.Adopt()
	require.NoError(t, err)
	require.True(t, changed)
	changed, err = c.Adopt()
	require.NoError(t, err)
	require.False(t, changed)
	for i := range 3 { // each time from a checkpoint
		m = &eventv1.Manifest{}
		for _, chunk := range c.Checkpoint(m) {
			segments = append(segments, chunk.Data)
		}
		require.NotEmpty(t, m.GetCore())
		again := w.coreOf(m, segments)
		require.Equal(t, c.branches[""].set.State(), again.branches[""].set.State())
		c = again
		changed, err = c.Adopt()
		require.NoError(t, err)
		require.False(t, changed)
		switch i {
		case 0:
			require.Equal(t, 1, c.folds(t, "0", zero.batch(0, timed{4, 90_000})))
			require.EqualValues(t, 49_000, c.branches[""].set.Horizon(), "partition 1 has not been heard of")
		case 1:
			require.Zero(t, c.folds(t, "1", one.batch(0, timed{3, 50_500})))
			require.Equal(t, 1, c.folds(t, "1", one.batch(0, timed{5, 60_000})))
			require.EqualValues(t, 58_000, c.branches[""].set.Horizon())
		case 2: // partition 0 goes back to an ingestor of before
			zero.silent = true
			require.Equal(t, 1, c.folds(t, "0", zero.batch(0, timed{6, 91_000})))
			one.silent = true
			require.Equal(t, 1, c.folds(t, "1", one.batch(0, timed{7, 92_000})))
			require.EqualValues(t, 89_000, c.branches[""].set.Horizon())
		}
	}
}

// A lane that takes over from lanes before hears itself how far partitions are, and forgets nothing before it has heard of all of them.
func TestProgressAfterAChangeOfLanes(t *testing.T) {
	w := byTime(&world{t: t, record: &controlv1.PipelineRecord{Uid: "u", Spec: &controlv1.Pipeline{
		Id: "p", Lanes: 1, Dedup: &controlv1.Dedup{Key: []string{"id"}, Window: durationpb.New(time.Second)},
	}}})
	var before *eventv1.DedupSet
	for lane, ms := range []int64{20_000, 30_000} {
		zero, one := &reader{producer: &producer{arrival: 100_000}, of: 2}, &reader{producer: &producer{arrival: 100_000}, number: 1, of: 2}
		c := w.coreOf(&eventv1.Manifest{}, nil)
		_, err := c.Adopt()
		require.NoError(t, err)
		c.folds(t, "0", zero.batch(0, timed{1, 50_000}))
		if c.folds(t, "1", one.batch(0)); lane == 0 { // lane 1 has had no row of partition 1
			c.folds(t, "1", one.batch(0, timed{2, ms}))
		}
		before = merged(before, c.branches[""].saved())
	}
	require.Equal(t, []string{"0", "1"}, before.GetProgress().GetTold())
	require.Empty(t, before.GetProgress().GetState())
	c := w.coreOf(&eventv1.Manifest{}, nil)
	b := c.branches[""]
	require.NoError(t, b.restore(before))
	again := proto.CloneOf(before)
	again.Telling, again.Progress.ConfirmMs = nil, 0
	require.True(t, proto.Equal(again, b.saved()), "a crash before anything was folded loses nothing of it")
	_, err := c.Adopt()
	require.NoError(t, err)
	horizon := b.set.Horizon()
	zero, one := &reader{producer: &producer{arrival: 100_001}, of: 2}, &reader{producer: &producer{arrival: 100_001}, number: 1, of: 2}
	require.Equal(t, 1, c.folds(t, "0", zero.batch(0, timed{3, 90_000})))
	require.Equal(t, horizon, b.set.Horizon())
	require.Equal(t, 1, c.folds(t, "1", one.batch(0, timed{4, 40_000})))
	require.EqualValues(t, 38_000, b.set.Horizon())
}

// A partition that has nothing to read does not keep all memory since.
func TestIdlePartitionLetsGo(t *testing.T) {
	t.Run("nothing to read", func(t *testing.T) {
		letsGo(t, func(b *eventv1.EventBatch, since int64) { b.Progress.IdleSinceMs = since })
	})
	t.Run("nothing with a time", func(t *testing.T) {
		letsGo(t, func(b *eventv1.EventBatch, since int64) { b.Progress.UntimedSinceMs = since })
	})
}

func letsGo(t *testing.T, say func(b *eventv1.EventBatch, since int64)) {
	w := byTime(&world{t: t, record: &controlv1.PipelineRecord{Uid: "u", Spec: &controlv1.Pipeline{
		Id: "p", Lanes: 1, Dedup: &controlv1.Dedup{Key: []string{"id"}, Window: durationpb.New(time.Second)},
	}}})
	zero, one := &reader{producer: &producer{arrival: 1_000_000_000}, of: 2}, &reader{producer: &producer{arrival: 1_000_000_000}, number: 1, of: 2}
	c := w.coreOf(&eventv1.Manifest{}, nil)
	_, err := c.Adopt()
	require.NoError(t, err)
	since := one.arrival
	c.folds(t, "1", one.batch(0, timed{1, 0}))
	most := 0
	for i := range 100_000 {
		zero.arrival += 100
		require.Equal(t, 1, c.folds(t, "0", zero.batch(0, timed{uint64(i + 2), int64(i) * 100})))
		if i%10 == 0 {
			one.arrival = zero.arrival
			b := one.batch(0)
			say(b, since)
			c.folds(t, "1", b)
		}
		most = max(most, c.branches[""].set.Len())
	}
	require.Less(t, most, 1000, "a minute, and two windows")
	state := slices.Collect(maps.Keys(c.branches[""].set.State().Writers))
	require.ElementsMatch(t, []string{"0", "1"}, state)
}
