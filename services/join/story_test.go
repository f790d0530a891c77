package join

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/proto"

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
					s.joined.Add(taken)
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
