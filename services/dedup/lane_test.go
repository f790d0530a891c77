package dedup

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	controlv1 "sluice/gen/sluice/control/v1"
	eventv1 "sluice/gen/sluice/event/v1"
	stagev1 "sluice/gen/sluice/stage/v1"
	"sluice/libs/checkpoint"
	"sluice/libs/fencedlog"
	"sluice/libs/lanes"
	"sluice/libs/playground/nats/natstest"
	"sluice/libs/service"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// world is a pipeline's logs and bucket on a real server, and what was put in.
type world struct {
	t      *testing.T
	nats   *natstest.Server
	nc     *nats.Conn
	js     jetstream.JetStream
	record *controlv1.PipelineRecord
	input  fencedlog.Log
	output fencedlog.Log

	mu  sync.Mutex
	ins map[uint64]*eventv1.EventBatch // guarded by mu; by sequence, of lane 0
}

func newWorld(t *testing.T, window time.Duration) *world {
	t.Helper()
	server := natstest.New(t)
	nc, err := nats.Connect(server.URL(), nats.MaxReconnects(-1), nats.ReconnectWait(10*time.Millisecond), nats.ReconnectBufSize(-1))
	require.NoError(t, err)
	t.Cleanup(nc.Close)
	js, err := jetstream.New(nc)
	require.NoError(t, err)
	w := &world{
		t: t, nats: server, nc: nc, js: js, ins: map[uint64]*eventv1.EventBatch{},
		input:  fencedlog.Log{Pipeline: "p", Stage: fencedlog.Ingest},
		output: fencedlog.Log{Pipeline: "p", Stage: fencedlog.Dedup},
		record: &controlv1.PipelineRecord{Uid: "u", Spec: &controlv1.Pipeline{
			Id: "p", Lanes: 1, Dedup: &controlv1.Dedup{Key: []string{"id"}, Window: durationpb.New(window)},
		}},
	}
	require.NoError(t, fencedlog.Ensure(t.Context(), js, w.input, fencedlog.Limits{}))
	require.NoError(t, fencedlog.Ensure(t.Context(), js, w.output, fencedlog.Limits{}))
	_, err = js.CreateKeyValue(t.Context(), jetstream.KeyValueConfig{Bucket: checkpoint.Bucket("p")})
	require.NoError(t, err)
	return w
}

// owner stands for the lane manager.
type owner struct {
	mu     sync.Mutex
	status stagev1.UnitStatus // guarded by mu
	asks   chan chan<- error
}

func newOwner() *owner { return &owner{asks: make(chan chan<- error)} }

func (o *owner) Report(change func(*stagev1.UnitStatus)) {
	o.mu.Lock()
	defer o.mu.Unlock()
	change(&o.status)
}

func (o *owner) Running() {
	o.Report(func(s *stagev1.UnitStatus) { s.Condition, s.LastError = stagev1.UnitStatus_RUNNING, "" })
}

func (o *owner) Checkpoints() <-chan chan<- error { return o.asks }

func (o *owner) snapshot() *stagev1.UnitStatus {
	o.mu.Lock()
	defer o.mu.Unlock()
	return proto.CloneOf(&o.status)
}

// state is the lane's checkpoint.
func (w *world) state() *eventv1.Manifest {
	kv, err := w.js.KeyValue(w.t.Context(), checkpoint.Bucket("p"))
	require.NoError(w.t, err)
	e, err := kv.Get(w.t.Context(), "dedup.0.manifest")
	require.NoError(w.t, err)
	m := &eventv1.Manifest{}
	require.NoError(w.t, proto.Unmarshal(e.Value(), m))
	return m
}

// run runs an instance of a lane that checkpoints often.
func (w *world) run(ctx context.Context, o *owner, index int) error {
	d, err := New(service.Deps{Instance: "i", JS: w.js, Log: slog.New(slog.DiscardHandler)}, nil)
	require.NoError(w.t, err)
	return d.run(ctx, o, w.record, index, slog.New(slog.DiscardHandler), 20*time.Millisecond)
}

// running starts a lane, and starts it again when another has taken it, as the lane manager does;
// stop ends it with a cause and returns what run did.
func (w *world) running(o *owner, index int) (stop func(cause error) error) {
	ctx, cancel := context.WithCancelCause(w.t.Context())
	done := make(chan error, 1)
	go func() {
		for {
			err := w.run(ctx, o, index)
			taken := errors.Is(err, fencedlog.ErrFenced) || errors.Is(err, checkpoint.ErrConflict)
			if err != nil && !taken {
				done <- err
				return
			}
			select {
			case <-ctx.Done():
				done <- nil
				return
			case <-time.After(rand.N(40 * time.Millisecond)): // so that of two, one gets its turn
			}
		}
	}()
	return func(cause error) error {
		cancel(cause)
		return <-done
	}
}

// producer is one Kafka partition's writer.
type producer struct {
	w       *world
	writer  *fencedlog.Writer
	lane    int
	offset  int64
	arrival int64
}

func (w *world) producer(name string, lane int) *producer {
	writer, _, err := fencedlog.Open(w.t.Context(), w.js, w.input, name, fencedlog.Options{Lanes: []int{lane}})
	require.NoError(w.t, err)
	return &producer{w: w, writer: writer, lane: lane, arrival: 1_000_000}
}

// send appends a batch of keys, all of the producer's arrival time; 0 is no key.
func (p *producer) send(keys ...uint64) uint64 {
	b := &eventv1.EventBatch{
		Format: 1, SchemaRevision: 3, Rows: uint32(len(keys)), Selected: uint32(len(keys)),
		Kafka:   &eventv1.KafkaRange{Topic: "t", FirstOffset: p.offset, LastOffset: p.offset + int64(len(keys)) - 1},
		Columns: []byte(fmt.Sprintf("columns of %v", keys)), ArrivalMs: p.arrival, Traceparent: "00-1-2-01",
	}
	b.ColumnsSize = uint32(len(b.Columns))
	for i, k := range keys {
		b.Keys = binary.LittleEndian.AppendUint64(b.Keys, k*0x9e3779b97f4a7c15)
		b.Keys = binary.LittleEndian.AppendUint64(b.Keys, k*0xd1342543de82ef95)
		b.Times = binary.LittleEndian.AppendUint64(b.Times, uint64(p.arrival))
		b.Offsets = binary.LittleEndian.AppendUint32(b.Offsets, uint32(i))
	}
	return p.append(b)
}

func (p *producer) append(b *eventv1.EventBatch) uint64 {
	data, err := proto.Marshal(b)
	require.NoError(p.w.t, err)
	p.offset += int64(b.Rows)
	seq, err := p.writer.Append(p.w.t.Context(), p.lane, strconv.FormatInt(p.offset, 10), data)
	require.NoError(p.w.t, err)
	p.w.mu.Lock()
	defer p.w.mu.Unlock()
	p.w.ins[seq] = b
	return seq
}

// outputs reads the first n messages of the dedup log's lane 0; it waits for them.
func (w *world) outputs(n int) (out []*eventv1.EventBatch) {
	ctx, cancel := context.WithTimeout(w.t.Context(), 2*time.Minute)
	defer cancel()
	r, err := fencedlog.OpenReader(ctx, w.js, w.output, 0, 1)
	require.NoError(w.t, err)
	defer r.Close()
	for range n {
		m, err := r.Next(ctx)
		require.NoError(w.t, err)
		b := &eventv1.EventBatch{}
		require.NoError(w.t, proto.Unmarshal(m.Data, b))
		require.Equal(w.t, strconv.FormatUint(b.InputSequence, 10), m.Position)
		out = append(out, b)
	}
	return out
}

// count returns how many messages the dedup log's lane 0 holds.
func (w *world) count() (n int) {
	stream, err := w.js.Stream(w.t.Context(), w.output.Stream())
	require.NoError(w.t, err)
	info, err := stream.Info(w.t.Context(), jetstream.WithSubjectFilter(w.output.LaneFilter(0)))
	require.NoError(w.t, err)
	for _, c := range info.State.Subjects {
		n += int(c)
	}
	return n
}

// check compares the dedup log with what a naive fold over the inputs says: one output for each
// input, in order, nothing twice.
func (w *world) check() {
	w.t.Helper()
	w.mu.Lock()
	defer w.mu.Unlock()
	outs := w.outputs(len(w.ins))
	window := w.record.GetSpec().GetDedup().GetWindow().AsDuration().Milliseconds()
	passed, largest, tally := map[uint64]int64{}, int64(0), &eventv1.Tally{}
	for i, seq := range sequences(w.ins) {
		in, out := w.ins[seq], outs[i]
		require.Equal(w.t, seq, out.InputSequence)
		selected := uint32(0)
		for row := range int(in.Rows) {
			key := binary.LittleEndian.Uint64(in.Keys[row*16:])
			largest = max(largest, int64(binary.LittleEndian.Uint64(in.Times[row*8:])))
			at, seen := passed[key]
			pass := key == 0 || !seen || largest-at > window
			if pass {
				selected++
				passed[key] = largest
			}
			require.Equal(w.t, pass, len(out.Selection) == 0 || out.Selection[row/8]>>(row%8)&1 == 1, "sequence %d row %d", seq, row)
		}
		tally.Records += uint64(in.Rows)
		tally.Rows += uint64(selected)
		tally.Duplicates += uint64(in.Rows - selected)
		require.Equal(w.t, selected, out.Selected)
		want := proto.CloneOf(in)
		want.Keys, want.Times = nil, nil
		want.Selection, want.Selected, want.InputSequence, want.Tally = out.Selection, selected, seq, proto.CloneOf(tally)
		if selected == 0 {
			want.Columns, want.ColumnsSize = nil, 0
		}
		require.True(w.t, proto.Equal(want, out), "want %v\ngot %v", want, out)
	}
	require.Equal(w.t, len(w.ins), w.count(), "outputs in the log")
}

// sinkReaches says for the sink that it has all of the dedup log.
func (w *world) sinkReaches(lanes int) {
	ctx := w.t.Context()
	_, end, err := fencedlog.Bounds(ctx, w.js, w.output)
	require.NoError(w.t, err)
	stream, err := w.js.Stream(ctx, w.output.Stream())
	require.NoError(w.t, err)
	msg, err := stream.GetMsg(ctx, end)
	require.NoError(w.t, err)
	value, err := proto.Marshal(&eventv1.SinkPosition{Format: 1, CoveredSequence: end, CoveredTimeNs: msg.Time.UnixNano()})
	require.NoError(w.t, err)
	kv, err := w.js.KeyValue(ctx, checkpoint.Bucket("p"))
	require.NoError(w.t, err)
	for lane := range lanes {
		_, err = kv.Put(ctx, checkpoint.PositionKey(lane), value)
		require.NoError(w.t, err)
	}
}

func sequences(ins map[uint64]*eventv1.EventBatch) []uint64 {
	s := make([]uint64, 0, len(ins))
	for seq := range ins {
		s = append(s, seq)
	}
	slices.Sort(s)
	return s
}

func randomKeys(r *rand.Rand) []uint64 {
	keys := make([]uint64, 1+r.IntN(30))
	for i := range keys {
		keys[i] = uint64(r.IntN(60))
	}
	return keys
}

func TestDropsDuplicates(t *testing.T) {
	w := newWorld(t, time.Second)
	o := newOwner()
	stop := w.running(o, 0)
	p := w.producer("0", 0)
	p.send(1, 2, 1, 0, 0)
	p.send(1, 2)
	p.arrival += 1000
	p.send(1, 3)
	p.arrival++
	p.send(1, 2, 3)
	w.check()
	require.NoError(t, stop(lanes.ErrStopping))
	s := o.snapshot()
	require.EqualValues(t, 12, s.Tally.Records)
	require.EqualValues(t, 5, s.Tally.Duplicates)
	require.EqualValues(t, 7, s.Tally.Rows)
	require.Zero(t, s.Lag)
}

// TestRandomKills: instances come and go, at any moment, in good order or not, sometimes before the
// one before them has noticed; the log is what one undisturbed instance would have written.
func TestRandomKills(t *testing.T) {
	for seed := range uint64(4) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			r := rand.New(rand.NewPCG(seed, 7))
			w := newWorld(t, 300*time.Millisecond)
			producers := []*producer{w.producer("0", 0), w.producer("1", 0)}
			zombie := func(error) error { return nil }
			for range 25 {
				stop := w.running(newOwner(), 0)
				before := w.count()
				for range 1 + r.IntN(12) {
					p := producers[r.IntN(2)]
					p.arrival += int64(r.IntN(60))
					p.send(randomKeys(r)...)
				}
				// Kill it after it has got somewhere, or at once.
				w.outputs(before + r.IntN(len(w.ins)-before+1))
				switch r.IntN(3) {
				case 0:
					require.NoError(t, stop(lanes.ErrLost))
				case 1:
					require.NoError(t, stop(lanes.ErrStopping))
				case 2: // it goes on, unaware
					require.NoError(t, zombie(lanes.ErrLost))
					zombie = stop
				}
			}
			stop := w.running(newOwner(), 0)
			require.NoError(t, zombie(lanes.ErrLost))
			w.check()
			require.NoError(t, stop(lanes.ErrStopping))
			w.check()
		})
	}
}

// TestTwoOwnersFight: two instances that both believe to own the lane, and never stop believing it.
func TestTwoOwnersFight(t *testing.T) {
	w := newWorld(t, 300*time.Millisecond)
	one, two := w.running(newOwner(), 0), w.running(newOwner(), 0)
	r := rand.New(rand.NewPCG(3, 3))
	p := w.producer("0", 0)
	for range 300 {
		p.arrival += int64(r.IntN(20))
		p.send(randomKeys(r)...)
	}
	w.check()
	require.NoError(t, one(lanes.ErrLost))
	require.NoError(t, two(lanes.ErrLost))
	w.check()
}

func TestCheckpointOnRequestAndPurge(t *testing.T) {
	w := newWorld(t, time.Second)
	w.record.Spec.Lanes = 2
	o := newOwner()
	stop := w.running(o, 0)
	stopIdle := w.running(newOwner(), 1) // a lane without events
	p := w.producer("0", 0)
	var last uint64
	for i := range uint64(3 * 64) {
		last = p.send(i + 1)
	}
	w.check()
	reply := make(chan error, 1)
	o.asks <- reply
	require.NoError(t, <-reply)
	stream, err := w.js.Stream(t.Context(), w.input.Stream())
	require.NoError(t, err)
	info, err := stream.Info(t.Context())
	require.NoError(t, err)
	require.EqualValues(t, 1, info.State.FirstSeq, "nothing is purged as long as the sink may need it again")
	w.sinkReaches(2)
	// Once both lanes have moved on, the ingest log is purged up to the idle lane's position.
	require.NoError(t, p.writer.Settle(t.Context(), []byte("x"))) // the writer no longer needs its messages either
	require.Eventually(t, func() bool {
		info, err := stream.Info(t.Context())
		return err == nil && info.State.FirstSeq > last-64
	}, 2*time.Minute, 10*time.Millisecond)
	require.NoError(t, stop(lanes.ErrStopping))
	require.NoError(t, stopIdle(lanes.ErrStopping))
	p.send(1, 2, 500)
	stop = w.running(newOwner(), 0)
	w.check()
	require.NoError(t, stop(lanes.ErrStopping))
}

// TestIdleLaneOfASmallLog: a lane without events does not hold back a log of few messages for good.
func TestIdleLaneOfASmallLog(t *testing.T) {
	w := newWorld(t, time.Second)
	w.record.Spec.Lanes = 2
	stop := w.running(newOwner(), 0)
	stopIdle := w.running(newOwner(), 1)
	p := w.producer("0", 0)
	var last uint64
	for i := range uint64(5) {
		last = p.send(i + 1)
	}
	w.check()
	w.sinkReaches(2)
	require.NoError(t, p.writer.Settle(t.Context(), []byte("x")))
	require.Eventually(t, func() bool {
		first, _, err := fencedlog.Bounds(t.Context(), w.js, w.input)
		return err == nil && first >= last
	}, 2*time.Minute, 10*time.Millisecond)
	require.NoError(t, stop(lanes.ErrStopping))
	require.NoError(t, stopIdle(lanes.ErrStopping))
}

// TestStandsStillOnUnknownFormat: what a newer version wrote is waited for, visibly, not skipped.
func TestStandsStillOnUnknownFormat(t *testing.T) {
	w := newWorld(t, time.Second)
	o := newOwner()
	stop := w.running(o, 0)
	p := w.producer("0", 0)
	p.send(1)
	p.append(&eventv1.EventBatch{Format: 99})
	p.send(2)
	require.Eventually(t, func() bool {
		s := o.snapshot()
		return s.Condition == stagev1.UnitStatus_WAITING && s.LastError != ""
	}, 2*time.Minute, 5*time.Millisecond)
	require.Contains(t, o.snapshot().LastError, "unknown batch format: 99")
	reply := make(chan error, 1)
	o.asks <- reply
	require.NoError(t, <-reply, "what it has can be checkpointed")
	require.NoError(t, stop(lanes.ErrStopping))
	require.Len(t, w.outputs(1), 1)
	require.Equal(t, 1, w.count())
}

// TestWindowChange: outputs that were decided under the old window stay, also when a crash and the
// change come together; later ones follow the new window.
func TestWindowChange(t *testing.T) {
	w := newWorld(t, time.Hour)
	stop := w.running(newOwner(), 0)
	p := w.producer("0", 0)
	p.send(1)
	w.outputs(1)
	p.arrival += 100
	p.send(1) // a duplicate under the old window
	require.EqualValues(t, 0, w.outputs(2)[1].Selected)
	require.NoError(t, stop(lanes.ErrLost))
	w.record = proto.CloneOf(w.record)
	w.record.Spec.Dedup.Window = durationpb.New(50 * time.Millisecond)
	stop = w.running(newOwner(), 0)
	p.arrival += 20
	p.send(1) // 120 ms after the one that passed, 20 ms after the duplicate
	require.EqualValues(t, 1, w.outputs(3)[2].Selected)
	require.NoError(t, stop(lanes.ErrStopping))
	require.Equal(t, 3, w.count())
}
