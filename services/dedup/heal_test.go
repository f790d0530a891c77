package dedup

import (
	"context"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/proto"

	eventv1 "sluice/gen/sluice/event/v1"
	stagev1 "sluice/gen/sluice/stage/v1"
	"sluice/libs/batch"
	"sluice/libs/checkpoint"
	"sluice/libs/fencedlog"
	"sluice/libs/lanes"
)

// story is a pipeline with an ingestor and a sink as they are: what is in Kafka stays there, what is in the table stays there, and
// between the two JetStream loses what it had acknowledged.
type story struct {
	*world
	r       *rand.Rand
	kafka   [2][]uint64 // keys of the records, by partition
	lost    [2]int      // records that Kafka no longer has: they come no more
	arrival int64
	last    uint64 // sequence of the last batch in the ingest log
	table   map[[2]int64]int
	sink    *eventv1.SinkPosition
}

func newStory(t *testing.T, seed uint64) *story {
	return &story{
		world: newWorld(t, time.Hour), r: rand.New(rand.NewPCG(seed, 11)), arrival: 1_000_000,
		table: map[[2]int64]int{}, sink: &eventv1.SinkPosition{Format: 1},
	}
}

// produce adds records to Kafka; about half of them are repetitions, across partitions too.
func (s *story) produce(n int) {
	for range n {
		p := s.r.IntN(2)
		s.kafka[p] = append(s.kafka[p], 1+uint64(s.r.IntN(40+len(s.kafka[0])+len(s.kafka[1]))))
	}
}

// ingest does what the ingestor does: goes on from where the log says that it is, up to the end of Kafka, in batches as they come.
func (s *story) ingest() {
	s.t.Helper()
	ctx := s.t.Context()
	next := [2]int{}
	writers := [2]*fencedlog.Writer{}
	for p := range 2 {
		w, past, err := fencedlog.Open(ctx, s.js, s.input, strconv.Itoa(p), fencedlog.Options{Lanes: []int{0}})
		require.NoError(s.t, err)
		writers[p] = w
		var settled eventv1.IngestPosition
		require.NoError(s.t, proto.Unmarshal(past.Body, &settled))
		next[p] = int(settled.GetNextOffset())
		if at := past.Last[0].Position; at != "" {
			n, err := strconv.Atoi(at)
			require.NoError(s.t, err)
			next[p] = max(next[p], n)
		}
		next[p] = max(next[p], s.lost[p])
	}
	for next[0] < len(s.kafka[0]) || next[1] < len(s.kafka[1]) {
		p := s.r.IntN(2)
		n := min(1+s.r.IntN(7), len(s.kafka[p])-next[p])
		if n <= 0 {
			continue
		}
		s.arrival++
		v := batch.View{
			SchemaRevision: 3, Topic: []byte("t"), TopicID: []byte("0123456789abcdef"), Partition: int32(p),
			FirstOffset: int64(next[p]), LastOffset: int64(next[p] + n - 1), Rows: n, Selected: n, ArrivalMS: s.arrival,
		}
		for i, k := range s.kafka[p][next[p]:][:n] {
			v.Keys = binary.LittleEndian.AppendUint64(v.Keys, k*0x9e3779b97f4a7c15)
			v.Keys = binary.LittleEndian.AppendUint64(v.Keys, k*0xd1342543de82ef95)
			v.Times = binary.LittleEndian.AppendUint64(v.Times, uint64(s.arrival))
			v.Offsets = binary.LittleEndian.AppendUint32(v.Offsets, uint32(i))
		}
		next[p] += n
		var err error
		s.last, err = writers[p].Append(ctx, 0, strconv.Itoa(next[p]), v.Append(nil))
		require.NoError(s.t, err)
	}
	for p := range 2 {
		body, err := proto.Marshal(&eventv1.IngestPosition{TopicId: []byte("0123456789abcdef"), NextOffset: int64(next[p])})
		require.NoError(s.t, err)
		require.NoError(s.t, writers[p].Settle(ctx, body))
	}
}

// drain does what the sink does: the rows that are new to it go into the table, and its position into the bucket.
func (s *story) drain() {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(s.t.Context(), 2*time.Minute)
	defer cancel()
	taken, err := batch.TakenOf(s.sink.GetTaken())
	require.NoError(s.t, err)
	from := s.sink.GetCoveredSequence() + 1
	if fencedlog.Verify(ctx, s.js, s.output, s.sink.GetCoveredSequence(), time.Unix(0, s.sink.GetCoveredTimeNs())) != nil {
		from, _, err = fencedlog.Bounds(ctx, s.js, s.output)
		require.NoError(s.t, err)
	}
	end, err := fencedlog.LastOf(ctx, s.js, s.output, 0)
	require.NoError(s.t, err)
	if end >= from {
		r, err := fencedlog.OpenReader(ctx, s.js, s.output, 0, from)
		require.NoError(s.t, err)
		defer r.Close()
		for at := uint64(0); at < end; {
			m, err := r.Next(ctx)
			require.NoError(s.t, err)
			var v batch.View
			require.NoError(s.t, v.Parse(m.Data))
			before := taken.Admit(m.Writer, &v)
			v.DropFirst(before, nil)
			for row := range v.Rows {
				if v.Selects(row) {
					s.table[[2]int64{int64(v.Partition), v.Offset(row)}]++
				}
			}
			at = m.Sequence
			s.sink.CoveredSequence, s.sink.CoveredTimeNs = m.Sequence, m.Time.UnixNano()
		}
	}
	s.sink.Taken = taken.Proto()
	s.storeSink()
}

func (s *story) storeSink() {
	kv, err := s.js.KeyValue(s.t.Context(), checkpoint.Bucket("p"))
	require.NoError(s.t, err)
	value, err := proto.Marshal(s.sink)
	require.NoError(s.t, err)
	_, err = kv.Put(s.t.Context(), checkpoint.PositionKey(0), value)
	require.NoError(s.t, err)
}

// fold runs the lane until it has all of the ingest log, then ends it.
func (s *story) fold(cause error) *stagev1.UnitStatus {
	s.t.Helper()
	o := newOwner()
	stop := s.running(o, 0)
	require.Eventually(s.t, func() bool { return o.snapshot().Position >= s.last }, 2*time.Minute, time.Millisecond, "status %v", o.snapshot())
	require.NoError(s.t, stop(cause))
	return o.snapshot()
}

// checkTable: every key that Kafka had is in the table, once.
func (s *story) checkTable(without map[uint64]bool) {
	s.t.Helper()
	got := map[uint64]int{}
	for at, n := range s.table {
		require.Equal(s.t, 1, n, "partition %d offset %d", at[0], at[1])
		got[s.kafka[at[0]][at[1]]]++
	}
	want := map[uint64]int{}
	for p := range 2 {
		for _, k := range s.kafka[p] {
			if !without[k] {
				want[k] = 1
			}
		}
	}
	require.Equal(s.t, want, got)
}

var (
	ingestStream = fencedlog.Log{Pipeline: "p", Stage: fencedlog.Ingest}.Stream()
	dedupStream  = fencedlog.Log{Pipeline: "p", Stage: fencedlog.Dedup}.Stream()
	stateStream  = "KV_" + checkpoint.Bucket("p")
)

// TestHealsATailLoss: an earlier copy of each stream, and of several, is put back; at the end the table is what Kafka says.
func TestHealsATailLoss(t *testing.T) {
	for name, lost := range map[string][]string{
		"ingest": {ingestStream}, "dedup": {dedupStream}, "state": {stateStream},
		"both logs": {ingestStream, dedupStream}, "ingest and state": {ingestStream, stateStream}, "all": {ingestStream, dedupStream, stateStream},
	} {
		t.Run(name, func(t *testing.T) {
			for seed := range uint64(3) {
				t.Run(fmt.Sprint(seed), func(t *testing.T) { healing(t, seed, lost) })
			}
		})
	}
}

func healing(t *testing.T, seed uint64, lost []string) {
	s := newStory(t, seed)
	s.produce(60)
	s.ingest()
	s.fold(lanes.ErrStopping)
	s.drain()
	s.produce(40)
	s.ingest()
	if seed%2 == 0 {
		s.fold(lanes.ErrLost)
		s.drain()
	}
	putBack := s.nats.Copy(s.js)
	// What comes now is lost: some of it in checkpoints, some only put out, some of that in the table.
	for range 1 + s.r.IntN(3) {
		s.produce(1 + s.r.IntN(60))
		s.ingest()
		if s.r.IntN(4) > 0 {
			s.fold([]error{lanes.ErrStopping, lanes.ErrLost}[s.r.IntN(2)])
		}
		if s.r.IntN(2) == 0 {
			s.drain()
		}
	}
	putBack(lost...)
	if slices.Contains(lost, stateStream) {
		s.storeSink() // that the sink loses its own position is another matter
	}
	// Kafka has more by the time that all is back.
	s.produce(s.r.IntN(80))
	s.ingest()
	status := s.fold([]error{lanes.ErrStopping, lanes.ErrLost}[s.r.IntN(2)])
	t.Logf("healed %d rows: %s", status.HealedRows, status.LastError)
	s.drain()
	s.produce(30)
	s.ingest()
	again := s.fold(lanes.ErrStopping)
	require.GreaterOrEqual(t, again.HealedRows, status.HealedRows, "it keeps saying so")
	s.drain()
	s.checkTable(nil)
}

// TestHealsALogMadeAnew, of which nothing is left.
func TestHealsALogMadeAnew(t *testing.T) {
	for _, lost := range []fencedlog.Log{{Pipeline: "p", Stage: fencedlog.Ingest}, {Pipeline: "p", Stage: fencedlog.Dedup}} {
		t.Run(lost.Stage, func(t *testing.T) {
			s := newStory(t, 5)
			s.produce(100)
			s.ingest()
			s.fold(lanes.ErrStopping)
			s.drain()
			require.NoError(t, fencedlog.Remove(t.Context(), s.js, lost))
			require.NoError(t, fencedlog.Ensure(t.Context(), s.js, lost, fencedlog.Limits{}))
			s.produce(20)
			s.ingest()
			status := s.fold(lanes.ErrStopping)
			require.Contains(t, status.LastError, "the log lost its tail")
			if lost.Stage == fencedlog.Ingest {
				require.EqualValues(t, 100, status.HealedRows)
			}
			s.drain()
			s.checkTable(nil)
		})
	}
}

// TestTailLossOfWhatKafkaNoLongerHas: the lane does not wait for it for ever, and what is gone is gone from both.
func TestTailLossOfWhatKafkaNoLongerHas(t *testing.T) {
	s := newStory(t, 6)
	s.produce(50)
	s.ingest()
	s.fold(lanes.ErrStopping)
	s.drain()
	putBack := s.nats.Copy(s.js)
	s.produce(50)
	s.ingest()
	o := newOwner()
	stop := s.running(o, 0)
	require.Eventually(t, func() bool {
		at, err := fencedlog.LastPosition(t.Context(), s.js, s.output, 0, "0")
		return err == nil && at == strconv.FormatUint(s.last, 10)
	}, 2*time.Minute, time.Millisecond)
	require.NoError(t, stop(lanes.ErrLost)) // put out, and in the table
	s.drain()
	putBack(ingestStream)
	s.lost = [2]int{len(s.kafka[0]), len(s.kafka[1])}
	s.ingest()
	stop = s.running(newOwner(), 0)
	require.Eventually(t, func() bool { return s.state().GetEpoch() == 1 }, 2*time.Minute, 10*time.Millisecond)
	require.NoError(t, stop(lanes.ErrStopping))
	s.checkTable(nil)
}

// TestOutputLostWhenAllIsSettled: no checkpoint is kept, since the sink has everything. It goes on, also when the sink has noticed the loss before.
func TestOutputLostWhenAllIsSettled(t *testing.T) {
	for _, noticed := range []bool{false, true} {
		t.Run(fmt.Sprintf("noticed %v", noticed), func(t *testing.T) {
			s := newStory(t, 9)
			s.produce(50)
			s.ingest()
			s.fold(lanes.ErrStopping)
			s.drain()
			putBack := s.nats.Copy(s.js)
			s.produce(50)
			s.ingest()
			o := newOwner()
			stop := s.running(o, 0)
			require.Eventually(t, func() bool { return s.state().GetCoveredSequence() >= s.last }, 2*time.Minute, 5*time.Millisecond)
			s.drain()
			require.Eventually(t, func() bool { return len(s.state().GetEarlier()) == 0 }, 2*time.Minute, 5*time.Millisecond)
			require.NoError(t, stop(lanes.ErrStopping))
			had := s.state().GetOutput().GetSequence()
			putBack(dedupStream)
			if noticed {
				s.drain()
			}
			status := s.fold(lanes.ErrLost)
			require.Contains(t, status.LastError, "stage sink has all of that")
			require.Less(t, s.state().GetOutput().GetSequence(), had, "of the log as it is now")
			s.produce(40)
			s.ingest()
			s.fold(lanes.ErrStopping)
			s.drain()
			s.checkTable(nil)
		})
	}
}

// TestOutputLostBeyondWhatIsKept: no checkpoint is old enough and the next stage does not have what is missing, though its numbers may be higher: the log has lost
// its tail and grown again before. That is said, and nothing is left out.
func TestOutputLostBeyondWhatIsKept(t *testing.T) {
	for name, says := range map[string]func(*eventv1.SinkPosition) *eventv1.SinkPosition{
		"nothing": func(*eventv1.SinkPosition) *eventv1.SinkPosition { return &eventv1.SinkPosition{Format: 1} }, // the sink's word is gone, too
		"higher numbers of another log": func(had *eventv1.SinkPosition) *eventv1.SinkPosition {
			had.CoveredSequence, had.CoveredTimeNs = 1<<20, time.Now().UnixNano()
			for _, taken := range had.GetTaken() {
				taken.NextOffset = 1
			}
			return had
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := newStory(t, 7)
			s.produce(50)
			s.ingest()
			s.fold(lanes.ErrStopping)
			s.drain()
			had := proto.CloneOf(s.sink)
			require.NotEmpty(t, had.GetTaken())
			s.produce(50)
			s.ingest()
			o := newOwner()
			stop := s.running(o, 0)
			require.Eventually(t, func() bool {
				earlier := s.state().GetEarlier()
				return len(earlier) > 0 && earlier[0].GetCoveredSequence() > 0
			}, 2*time.Minute, 5*time.Millisecond)
			require.NoError(t, stop(lanes.ErrStopping))
			require.NoError(t, fencedlog.Remove(t.Context(), s.js, s.output))
			require.NoError(t, fencedlog.Ensure(t.Context(), s.js, s.output, fencedlog.Limits{}))
			s.sink = says(had)
			s.storeSink()
			require.ErrorIs(t, s.run(t.Context(), newOwner(), 0), fencedlog.ErrTailLost)
		})
	}
}

// TestHealsWhileItRuns: the log is cut, and filled again beyond where the lane stood, under a lane that never stops.
func TestHealsWhileItRuns(t *testing.T) {
	for name, lost := range map[string]string{"ingest": ingestStream, "dedup": dedupStream} {
		t.Run(name, func(t *testing.T) {
			s := newStory(t, 8)
			s.produce(60)
			s.ingest()
			ctx, cancel := context.WithCancelCause(t.Context())
			ended := make(chan struct{})
			go func() { // as the lane manager does
				defer close(ended)
				for ctx.Err() == nil {
					_ = s.run(ctx, newOwner(), 0)
					select {
					case <-ctx.Done():
					case <-time.After(20 * time.Millisecond):
					}
				}
			}()
			stored := func(what string, done func(*eventv1.Manifest) bool) {
				t.Helper()
				require.Eventually(t, func() bool {
					kv, err := s.js.KeyValue(t.Context(), checkpoint.Bucket("p"))
					if err != nil {
						return false
					}
					e, err := kv.Get(t.Context(), "dedup.0.manifest")
					m := &eventv1.Manifest{}
					return err == nil && proto.Unmarshal(e.Value(), m) == nil && done(m)
				}, 2*time.Minute, 5*time.Millisecond, what)
			}
			caughtUp := func(m *eventv1.Manifest) bool { return m.GetCoveredSequence() >= s.last }
			stored("first", caughtUp)
			s.drain()
			putBack := s.nats.Copy(s.js)
			s.produce(60)
			s.ingest()
			stored("what will be lost", caughtUp)
			s.drain()
			putBack(lost)
			s.produce(150)
			s.ingest()
			stored("healed", func(m *eventv1.Manifest) bool { return m.GetHealed().GetWhat() != "" && caughtUp(m) })
			cancel(lanes.ErrStopping)
			<-ended
			s.drain()
			s.checkTable(nil)
		})
	}
}
