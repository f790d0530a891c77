package join

import (
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	controlv1 "sluice/gen/sluice/control/v1"
	eventv1 "sluice/gen/sluice/event/v1"
	stagev1 "sluice/gen/sluice/stage/v1"
	"sluice/libs/batch"
	"sluice/libs/checkpoint"
	"sluice/libs/fencedlog"
	"sluice/libs/fold"
	"sluice/libs/lanes"
)

// story is a join with an ingestor and a sink as they are: what is in Kafka stays there, what is in the table stays there, and
// between the two JetStream loses what it had acknowledged.
type story struct {
	*world
	r       *rand.Rand
	kafka   map[string][]arrived // by writer
	clock   int64
	lastIn  uint64
	arrival int64
	lost    map[string]int // records that Kafka no longer has: they come no more
	table   map[batch.Origin]int
	sink    *eventv1.SinkPosition
	joined  *batch.Taken // see SinkPosition.joined
	// looks: the join puts out again what the sink has had. Rows are in the table or not, and only the table tells.
	looks bool
	// together: large batches, users first.
	together bool
}

// arrived is a record of Kafka.
type arrived struct {
	key string
	ms  int64
}

var sides = [2]string{"orders", "users"}

func writerOf(source string, partition int) string {
	return fencedlog.IngestWriter(source, int32(partition))
}

func newStory(t *testing.T, seed uint64, change func(*controlv1.Join)) *story {
	return &story{
		world: newWorld(t, change), r: rand.New(rand.NewPCG(seed, 23)), kafka: map[string][]arrived{}, clock: 100_000, arrival: 1_000_000,
		table: map[batch.Origin]int{}, sink: &eventv1.SinkPosition{Format: 1}, joined: batch.NewTaken(), lost: map[string]int{},
	}
}

// produce adds records to Kafka, out of order by less than grace, some of one time.
func (s *story) produce(n int) {
	for range n {
		s.clock += 2 * (1 + s.r.Int64N(300))
		at := writerOf(sides[s.r.IntN(2)], s.r.IntN(2))
		ms := s.clock - 2*s.r.Int64N(600)
		s.kafka[at] = append(s.kafka[at], arrived{fmt.Sprintf("k%d", s.r.IntN(6)), ms - ms%600})
	}
}

// end adds records of a time at which all before them is decided.
func (s *story) end() {
	s.clock += 3_600_000
	for _, source := range sides {
		for p := range 2 {
			s.clock++
			at := writerOf(source, p)
			s.kafka[at] = append(s.kafka[at], arrived{"end of " + at, s.clock})
		}
	}
}

// ingest does what the ingestor does: goes on from where the log says that it is, up to the end of Kafka, in batches as they come.
func (s *story) ingest() {
	s.t.Helper()
	ctx := s.t.Context()
	type open struct {
		p    *producer
		next int
	}
	var writers []*open
	for _, source := range sides {
		for partition := range 2 {
			name := writerOf(source, partition)
			w, past, err := fencedlog.Open(ctx, s.js, s.log(fencedlog.Ingest), name, fencedlog.Options{Lanes: []int{0}})
			require.NoError(s.t, err)
			var settled eventv1.IngestPosition
			require.NoError(s.t, proto.Unmarshal(past.Body, &settled))
			o := &open{&producer{w: s.world, source: source, partition: int32(partition), writer: w, revision: 1}, int(settled.GetNextOffset())}
			if at := past.Last[0].Position; at != "" {
				n, err := strconv.Atoi(at)
				require.NoError(s.t, err)
				o.next = max(o.next, n)
			}
			o.next = max(o.next, s.lost[name])
			for _, e := range s.kafka[name][:o.next] {
				o.p.max, o.p.has = max(o.p.max, e.ms), true
			}
			writers = append(writers, o)
		}
	}
	left := slices.Clone(writers)
	for len(left) > 0 {
		i := s.r.IntN(len(left))
		if s.together {
			i = len(left) - 1
		}
		o := left[i]
		name := writerOf(o.p.source, int(o.p.partition))
		n := min(1+s.r.IntN(7), len(s.kafka[name])-o.next)
		if s.together {
			n = len(s.kafka[name]) - o.next
		}
		if n <= 0 {
			left = slices.Delete(left, i, i+1)
			continue
		}
		o.p.offset = int64(o.next)
		var events []event
		for k, e := range s.kafka[name][o.next:][:n] {
			if o.p.source == "orders" {
				events = append(events, order(e.ms, e.key, fmt.Sprintf("%s/%d", name, o.next+k), 1))
			} else {
				events = append(events, user(e.ms, e.key, `"`+fmt.Sprintf("%s/%d", name, o.next+k)+`"`, 1, ""))
			}
		}
		s.arrival += 5
		o.p.partitions, o.p.arrival = 2, s.arrival
		o.p.send(events...)
		o.next += n
	}
	for _, o := range writers {
		body, err := proto.Marshal(&eventv1.IngestPosition{NextOffset: int64(o.next)})
		require.NoError(s.t, err)
		require.NoError(s.t, o.p.writer.Settle(ctx, body))
	}
	var err error
	s.lastIn, err = fencedlog.LastOf(ctx, s.js, s.log(fencedlog.Ingest), 0)
	require.NoError(s.t, err)
}

// drain does what the sink does: what is new to it goes into the table, and its position into the bucket.
func (s *story) drain() {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(s.t.Context(), 2*time.Minute)
	defer cancel()
	log := s.log(fencedlog.Join)
	from := s.sink.GetCoveredSequence() + 1
	if fencedlog.Verify(ctx, s.js, log, s.sink.GetCoveredSequence(), time.Unix(0, s.sink.GetCoveredTimeNs())) != nil {
		var err error
		from, _, err = fencedlog.Bounds(ctx, s.js, log)
		require.NoError(s.t, err)
	}
	end, err := fencedlog.LastOf(ctx, s.js, log, 0)
	require.NoError(s.t, err)
	if end >= from {
		r, err := fencedlog.OpenReader(ctx, s.js, log, 0, from)
		require.NoError(s.t, err)
		defer r.Close()
		for at := uint64(0); at < end; {
			m, err := r.Next(ctx)
			require.NoError(s.t, err)
			broken, err := fold.Broken(s.sink.GetPositions()[m.Writer], s.sink.GetMadeNs()[m.Writer], m)
			require.NoError(s.t, err)
			if broken {
				s.looks, s.sink.Positions, s.sink.MadeNs = true, map[string]string{m.Writer: m.Link.After}, nil
			}
			again, err := fold.Reaches(s.sink.GetPositions()[m.Writer], m.Position)
			require.NoError(s.t, err)
			if !again {
				var v batch.View
				require.NoError(s.t, v.Parse(m.Data))
				for row := range v.Rows {
					if at := v.Origin(row); !s.looks || s.table[at] == 0 {
						s.table[at]++
					}
				}
				var past eventv1.JoinPast
				require.NoError(s.t, proto.Unmarshal(v.JoinPast, &past))
				for _, some := range []map[string]*eventv1.Taken{past.GetTaken(), past.GetOwn()} {
					taken, err := batch.TakenOf(some)
					require.NoError(s.t, err)
					merge(s.joined, taken)
				}
				s.sink.Positions, s.sink.MadeNs = map[string]string{m.Writer: m.Position}, map[string]int64{m.Writer: m.Link.Input.Time.UnixNano()}
				s.sink.Joined = s.joined.Proto()
			}
			at = m.Sequence
			s.sink.CoveredSequence, s.sink.CoveredTimeNs = m.Sequence, m.Time.UnixNano()
		}
	}
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
	stop := s.running(o, s.js, 0)
	require.Eventually(s.t, func() bool { return o.snapshot().GetPosition() >= s.lastIn }, 2*time.Minute, time.Millisecond, "status %v", o.snapshot())
	require.NoError(s.t, stop(cause))
	return o.snapshot()
}

// crash runs the lane, with many checkpoints, until it has appended a few messages or has all of the ingest log, and ends it as a kill does.
func (s *story) crash() {
	s.t.Helper()
	o := newOwner()
	ctx, cancel := context.WithCancelCause(s.t.Context())
	c := &crasher{JetStream: s.js, subject: s.log(fencedlog.Join).Subject(0, "0"), at: 1 + s.r.IntN(6), cancel: cancel}
	stop := s.runningIn(ctx, cancel, o, c, 2*time.Millisecond)
	require.Eventually(s.t, func() bool { return ctx.Err() != nil || o.snapshot().GetPosition() >= s.lastIn }, 2*time.Minute, time.Millisecond)
	_ = stop(lanes.ErrLost)
}

func (s *story) folder(stream string) string {
	return filepath.Join(s.nats.Dir(), "jetstream", "$G", "streams", stream)
}

// copyStore returns a copy of the store.
func (s *story) copyStore() string {
	s.nats.Stop()
	to := filepath.Join(s.t.TempDir(), "earlier")
	require.NoError(s.t, os.CopyFS(to, os.DirFS(s.nats.Dir())))
	s.back()
	return to
}

// putBack makes streams what they were.
func (s *story) putBack(earlier string, streams ...string) {
	s.nats.Stop()
	for _, stream := range streams {
		require.NoError(s.t, os.RemoveAll(s.folder(stream)))
		require.NoError(s.t, os.CopyFS(s.folder(stream), os.DirFS(filepath.Join(earlier, "jetstream", "$G", "streams", stream))))
	}
	s.back()
}

func (s *story) back() {
	s.nats.Start()
	require.Eventually(s.t, func() bool {
		ctx, cancel := context.WithTimeout(s.t.Context(), time.Second)
		defer cancel()
		_, err := s.js.AccountInfo(ctx)
		return err == nil
	}, 2*time.Minute, 5*time.Millisecond)
}

// expected is what Kafka's records make, by comparing all with all.
func (s *story) expected() map[batch.Origin]int {
	join := s.record.GetSpec().GetJoin()
	window := join.GetWindow().AsDuration().Milliseconds()
	out := map[batch.Origin]int{}
	for lp := range 2 {
		for lo, l := range s.kafka[writerOf("orders", lp)] {
			if l.ms >= s.clock-1000 {
				continue // of the end: it still waits
			}
			none := batch.Origin{LeftPartition: int32(lp), LeftOffset: int64(lo), RightPartition: batch.NoRight, EventMS: l.ms}
			best, bestMS := none, int64(-1)
			met := false
			for rp := range 2 {
				for ro, r := range s.kafka[writerOf("users", rp)] {
					if r.key != l.key {
						continue
					}
					at := none
					at.RightPartition, at.RightOffset = int32(rp), int64(ro)
					if join.GetKind() == controlv1.Join_LOOKUP {
						if r.ms <= l.ms && r.ms >= l.ms-window && r.ms >= bestMS {
							best, bestMS = at, r.ms
						}
						continue
					}
					if r.ms-l.ms <= window && l.ms-r.ms <= window {
						out[at]++
						met = true
					}
				}
			}
			if !met {
				out[best]++
			}
		}
	}
	return out
}

func (s *story) checkTable() {
	s.t.Helper()
	want := s.expected()
	for o, n := range s.table {
		require.Equal(s.t, want[o], n, "row %+v", o)
	}
	for o, n := range want {
		require.Equal(s.t, n, s.table[o], "row %+v is missing", o)
	}
	require.Empty(s.t, s.letters())
}

var (
	ingestStream  = fencedlog.Log{Pipeline: "p", Stage: fencedlog.Ingest}.Stream()
	lettersStream = fencedlog.Log{Pipeline: "p", Stage: fencedlog.DeadLetters}.Stream()
	joinStream    = fencedlog.Log{Pipeline: "p", Stage: fencedlog.Join}.Stream()
	stateStream   = "KV_" + checkpoint.Bucket("p")
)

func lookup(j *controlv1.Join) {
	j.Kind, j.Window = controlv1.Join_LOOKUP, durationpb.New(60*time.Second)
}

// TestHealsATailLoss: an earlier copy of each stream, and of several, is put back; at the end the table is what Kafka says.
func TestHealsATailLoss(t *testing.T) {
	kinds := map[string]func(*controlv1.Join){
		"interval": nil, "lookup": lookup, "disk": func(j *controlv1.Join) { j.Memory = 1 << 10 },
	}
	for kind, change := range kinds {
		for name, lost := range map[string][]string{
			"input": {ingestStream}, "output": {joinStream}, "state": {stateStream}, "input and state": {ingestStream, stateStream},
			"output and state": {joinStream, stateStream},
		} {
			for seed := range uint64(2) {
				t.Run(fmt.Sprint(kind, "/", name, "/", seed), func(t *testing.T) { healing(t, seed, lost, change) })
			}
		}
	}
}

func healing(t *testing.T, seed uint64, lost []string, change func(*controlv1.Join)) {
	s := newStory(t, seed, change)
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
	earlier := s.copyStore()
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
	s.putBack(earlier, lost...)
	if slices.Contains(lost, stateStream) {
		s.storeSink() // that the sink loses its own position is another matter
	}
	// Kafka has more by the time that all is back.
	s.produce(s.r.IntN(80))
	s.ingest()
	for range s.r.IntN(3) {
		s.crash()
		if s.r.IntN(3) == 0 && slices.Contains(lost, ingestStream) && !slices.Contains(lost, stateStream) {
			s.putBack(earlier, ingestStream) // once more, in the middle of making up for it
			s.produce(s.r.IntN(20))
			s.ingest()
		}
	}
	status := s.fold([]error{lanes.ErrStopping, lanes.ErrLost}[s.r.IntN(2)])
	t.Logf("healed %d rows: %s", status.HealedRows, status.LastError)
	s.drain()
	s.produce(30)
	s.end()
	s.ingest()
	again := s.fold(lanes.ErrStopping)
	require.GreaterOrEqual(t, again.HealedRows, status.HealedRows, "it keeps saying so")
	s.drain()
	require.False(t, s.looks, "what the sink has is known")
	s.checkTable()
	var rows uint64
	for _, n := range s.table {
		rows += uint64(n)
	}
	require.Equal(t, rows, again.GetTally().GetRows())
	require.Equal(t, again.GetTally().GetMatched()+again.GetTally().GetUnmatched(), s.lefts())
}

// lefts counts the left rows in the table.
func (s *story) lefts() uint64 {
	lefts := map[batch.Origin]bool{}
	for o := range s.table {
		lefts[batch.Origin{LeftPartition: o.LeftPartition, LeftOffset: o.LeftOffset}] = true
	}
	return uint64(len(lefts))
}

// TestHealsALateRow: what was late stays so, once, though in the new order it would not have been; what was not stays taken, though it would have been.
func TestHealsALateRow(t *testing.T) {
	s := newStory(t, 1, nil)
	put := func(source string, ms int64) {
		at := writerOf(source, 0)
		s.kafka[at] = append(s.kafka[at], arrived{"k", ms})
		s.ingest()
	}
	for _, source := range sides { // the second partitions are far ahead
		at := writerOf(source, 1)
		s.kafka[at] = append(s.kafka[at], arrived{"ahead", 900_000})
	}
	s.ingest()
	put("orders", 100_000)
	put("users", 130_000)
	s.fold(lanes.ErrStopping)
	s.drain()
	earlier := s.copyStore()
	put("orders", 120_000)
	put("orders", 200_000)
	put("users", 201_000)  // a pair; the watermark is 198 s: 100 s and 120 s have met 130 s or nobody
	put("users", 122_000)  // late
	put("orders", 197_000) // late
	o := newOwner()
	stop := s.running(o, s.js, time.Hour)
	require.Eventually(t, func() bool { return len(s.letters()) == 2 }, 2*time.Minute, 10*time.Millisecond)
	require.NoError(t, stop(lanes.ErrLost))
	s.drain()
	letters := len(s.letters())
	before := maps.Clone(s.table)
	require.Len(t, before, 4)
	s.putBack(earlier, ingestStream)
	s.together = true     // in one batch each: the users first
	put("users", 121_000) // new, and late as well: it is behind what was put out
	status := s.fold(lanes.ErrStopping)
	require.Contains(t, status.GetLastError(), "lost its tail")
	s.drain()
	require.Equal(t, before, s.table)
	require.Len(t, s.letters(), letters+1)
	require.EqualValues(t, 3, status.GetTally().GetLate())
	require.EqualValues(t, 3, status.GetTally().GetDeadLetters())
	require.EqualValues(t, 4, status.GetTally().GetRows())

	// And now the dead-letter stream goes back: the letters are made anew as they were, before and behind the last checkpoint.
	want := s.letters()
	later := s.copyStore()
	s.putBack(earlier, lettersStream)
	require.Empty(t, s.letters())
	status = s.fold(lanes.ErrStopping)
	require.Contains(t, status.GetLastError(), "3 dead letters up to that of")
	require.Contains(t, status.GetLastError(), "3 were made anew")
	put("users", 121_000) // late
	o = newOwner()
	stop = s.running(o, s.js, time.Hour)
	require.Eventually(t, func() bool { return len(s.letters()) == 4 }, 30*time.Second, 10*time.Millisecond)
	require.NoError(t, stop(lanes.ErrLost))
	got := s.letters()
	for i := range want {
		require.True(t, proto.Equal(want[i], got[i]), "%v, was %v", got[i], want[i])
	}
	s.putBack(later, lettersStream)
	require.EqualValues(t, 4, s.fold(lanes.ErrStopping).GetTally().GetLate())
	require.Len(t, s.letters(), 4, "the replay makes it")
}

// TestBothLogsLost: what was put out can only be told if the next stage has not gone beyond it. Else it is put out again, and the next stage finds out before it takes any of it
// for new.
func TestBothLogsLost(t *testing.T) {
	for name, c := range map[string]struct{ had, saved, again bool }{
		"the sink had none of it": {false, true, false}, "all of it is in a checkpoint": {true, true, false}, "only the sink had it": {true, false, true},
	} {
		t.Run(name, func(t *testing.T) {
			s := newStory(t, 4, nil)
			s.produce(100)
			s.ingest()
			s.fold(lanes.ErrStopping)
			s.drain()
			earlier := s.copyStore()
			s.produce(100)
			s.ingest()
			s.fold(map[bool]error{true: lanes.ErrStopping, false: lanes.ErrLost}[c.saved])
			if c.had {
				s.drain()
			}
			s.putBack(earlier, ingestStream, joinStream)
			s.ingest()
			status := s.fold(lanes.ErrStopping)
			require.Contains(t, status.GetLastError(), "lost its tail")
			require.True(t, !c.again || strings.Contains(status.GetLastError(), "stage sink leaves out what it has of that"), status.GetLastError())
			s.drain()
			require.Equal(t, c.again, s.looks)
			s.end()
			s.ingest()
			s.fold(lanes.ErrStopping)
			s.drain()
			s.checkTable()
		})
	}
}

// TestBothLogsLostWithLateRows: rows that were refused are not taken when what was put out after them is lost, and have one letter.
func TestBothLogsLostWithLateRows(t *testing.T) {
	s := newStory(t, 1, nil)
	put := func(source string, ms int64) {
		at := writerOf(source, 0)
		s.kafka[at] = append(s.kafka[at], arrived{"k", ms})
		s.ingest()
	}
	for _, source := range sides { // the second partitions are far ahead
		at := writerOf(source, 1)
		s.kafka[at] = append(s.kafka[at], arrived{"ahead", 900_000})
	}
	s.ingest()
	put("orders", 100_000)
	s.fold(lanes.ErrStopping)
	s.drain()
	earlier := s.copyStore()
	put("orders", 120_000)
	put("orders", 200_000)
	put("users", 201_000)  // a pair; the watermark is 198 s: 100 s and 120 s have met nobody
	put("users", 122_000)  // late
	put("orders", 190_000) // late
	put("orders", 202_000) // another pair
	o := newOwner()
	stop := s.running(o, s.js, time.Hour)
	require.Eventually(t, func() bool { return o.snapshot().GetPosition() >= s.lastIn && len(s.letters()) == 2 }, 2*time.Minute, 10*time.Millisecond)
	require.NoError(t, stop(lanes.ErrLost))
	s.drain()
	letters, before := s.letters(), maps.Clone(s.table)
	require.Len(t, before, 5)
	s.putBack(earlier, ingestStream, joinStream)
	s.together = true // in one batch each: the users first
	s.ingest()
	status := s.fold(lanes.ErrStopping)
	s.drain()
	require.True(t, s.looks)
	require.Equal(t, before, s.table)
	require.Len(t, s.letters(), len(letters))
	require.EqualValues(t, 2, status.GetTally().GetLate())
	require.EqualValues(t, 2, status.GetTally().GetDeadLetters())
	require.EqualValues(t, 5, status.GetTally().GetRows())
}

// TestHealingBothLogsIsCutOff: after the fence that it takes, and after that which says that it has healed, before the checkpoint that says so. What is in a later checkpoint than the one that the
// lane goes back to, and not with the sink, is put out again all the same.
func TestHealingBothLogsIsCutOff(t *testing.T) {
	for at := 1; at <= 2; at++ {
		s := newStory(t, 7, nil)
		s.produce(100)
		s.ingest()
		s.fold(lanes.ErrStopping)
		s.drain()
		earlier := s.copyStore()
		s.produce(60)
		s.ingest()
		s.fold(lanes.ErrStopping)
		s.drain()
		s.produce(60)
		s.ingest()
		s.fold(lanes.ErrStopping) // a checkpoint of more than the sink has
		s.putBack(earlier, ingestStream, joinStream)
		s.ingest()
		ctx, cancel := context.WithCancelCause(t.Context())
		c := &crasher{JetStream: s.js, subject: "sluice.p.join.fence.0", at: at, cancel: cancel}
		stop := s.runningIn(ctx, cancel, newOwner(), c, time.Hour)
		<-ctx.Done()
		_ = stop(lanes.ErrLost)
		s.fold(lanes.ErrStopping)
		s.drain()
		s.end()
		s.ingest()
		s.fold(lanes.ErrStopping)
		s.drain()
		s.checkTable()
	}
}

// TestTailLossOfWhatKafkaNoLongerHas: the lane does not wait for it for ever; what it had put out stays, once.
func TestTailLossOfWhatKafkaNoLongerHas(t *testing.T) {
	s := newStory(t, 6, nil)
	s.produce(60)
	s.ingest()
	s.fold(lanes.ErrStopping)
	s.drain()
	earlier := s.copyStore()
	s.produce(60)
	s.ingest()
	s.fold(lanes.ErrLost)
	s.drain()
	before := maps.Clone(s.table)
	s.putBack(earlier, ingestStream)
	for at, records := range s.kafka {
		s.lost[at] = len(records)
	}
	s.end()
	s.ingest()
	s.fold(lanes.ErrStopping)
	s.drain()
	for o, n := range s.table {
		require.Equal(t, 1, n, "row %+v", o)
	}
	for o := range before {
		require.Equal(t, 1, s.table[o], "row %+v", o)
	}
}

// TestHealsOnlyWhatItCanTell: outputs of a version that did not note what it had taken.
func TestHealsOnlyWhatItCanTell(t *testing.T) {
	c := &core{joiner: nil}
	c.past = &recalled{}
	require.ErrorContains(t, c.Recall(&batch.View{}), "an earlier version")
}

// TestHealsBothLogs: both logs lose their tails, and the sink, or some of it, has what they lost. It finds that by what the messages say of each other, whatever has crashed when, and whether
// the join knows of it or not; the table is what Kafka says.
func TestHealsBothLogs(t *testing.T) {
	for kind, change := range map[string]func(*controlv1.Join){"interval": nil, "lookup": lookup} {
		for seed := range uint64(10) {
			t.Run(fmt.Sprint(kind, "/", seed), func(t *testing.T) { healingBoth(t, seed, change) })
		}
	}
}

func healingBoth(t *testing.T, seed uint64, change func(*controlv1.Join)) {
	s := newStory(t, seed, change)
	s.produce(60)
	s.ingest()
	s.fold(lanes.ErrStopping)
	s.drain()
	s.produce(40)
	s.ingest()
	s.fold([]error{lanes.ErrStopping, lanes.ErrLost}[seed%2])
	s.drain()
	earlier := s.copyStore()
	for range 1 + s.r.IntN(3) {
		s.produce(20 + s.r.IntN(60))
		s.ingest()
		s.fold([]error{lanes.ErrStopping, lanes.ErrLost}[s.r.IntN(2)])
		if s.r.IntN(3) > 0 {
			s.drain()
		}
	}
	s.drain()
	lost := s.sink.GetPositions()["0"]
	s.putBack(earlier, ingestStream, joinStream)
	s.storeSink()
	s.produce(s.r.IntN(80))
	s.ingest()
	for range s.r.IntN(4) {
		s.crash()
		if s.r.IntN(2) == 0 {
			s.drain()
		}
	}
	status := s.fold([]error{lanes.ErrStopping, lanes.ErrLost}[s.r.IntN(2)])
	s.drain()
	t.Logf("the sink had %s, looks %v; %s", lost, s.looks, status.LastError)
	s.produce(30)
	s.end()
	s.ingest()
	status = s.fold(lanes.ErrStopping)
	s.drain()
	s.checkTable()
	var rows uint64
	for _, n := range s.table {
		rows += uint64(n)
	}
	require.Equal(t, rows, status.GetTally().GetRows())
}
