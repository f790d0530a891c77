package ingestor

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kgo"

	controlv1 "sluice/gen/sluice/control/v1"
	"sluice/libs/batch"
	"sluice/libs/fencedlog"
	"sluice/libs/spec"
)

const shortJoin = "{left: orders, right: users, on: [{left: user_id, right: id}], window: 300ms, grace: 100ms, idle: 200ms}"

// newJoinWorld has a pipeline "joined" of the topics orders and users; topics: name and partitions.
func newJoinWorld(t *testing.T, sources, join string, topics map[string]int32) *world {
	w := newWorld(t, 1)
	for name, partitions := range topics {
		_, err := w.admin.CreateTopic(w.ctx, partitions, 1, nil, name)
		require.NoError(t, err)
	}
	p, err := spec.Parse("test", fmt.Appendf(nil, "id: joined\nsources: %s\njoin: %s\nsink: {clickhouse: {addr: [localhost:9000], table: joined}}\nbatch: {max_delay: 20ms}\n",
		strings.ReplaceAll(sources, "KAFKA", fmt.Sprintf("%q", w.kafka)), join))
	require.NoError(t, err)
	require.NoError(t, spec.Validate(p))
	w.rec = &controlv1.PipelineRecord{
		Spec: spec.WithDefaults(p), Uid: "u2", Desired: controlv1.DesiredState_RUNNING, Generation: 1,
		Schemas: []*controlv1.Schema{{Revision: 1, Columns: []*controlv1.SchemaColumn{
			{Name: "amount", Type: "Float64", From: "amount", Source: "orders"}, {Name: "user_id", Type: "Nullable(Int64)", From: "user_id", Source: "orders"},
			{Name: "name", Type: "Nullable(String)", From: "name", Source: "users"},
		}}},
	}
	for _, stage := range []string{fencedlog.Ingest, fencedlog.DeadLetters} {
		require.NoError(t, fencedlog.Ensure(w.ctx, w.js, fencedlog.Log{Pipeline: "joined", Stage: stage}, fencedlog.Limits{}))
	}
	_, err = w.registry.Create(w.ctx, w.rec)
	require.NoError(t, err)
	return w
}

const twoTopics = `{orders: {kafka: {brokers: [KAFKA], topic: orders}, time: at}, users: {kafka: {brokers: [KAFKA], topic: users}}}`

func (w *world) send(topic string, partition int32, values ...string) {
	producer, err := kgo.NewClient(kgo.SeedBrokers(w.kafka), kgo.RecordPartitioner(kgo.ManualPartitioner()))
	require.NoError(w.t, err)
	defer producer.Close()
	for _, v := range values {
		r := &kgo.Record{Topic: topic, Partition: partition, Value: []byte(v), Timestamp: time.UnixMilli(1_700_000_000_000)}
		require.NoError(w.t, producer.ProduceSync(w.ctx, r).FirstErr())
	}
}

// joinBatch is a batch of the ingest log, copied.
type joinBatch struct {
	view batch.View
	lane int
}

// batches are all messages of the ingest log, by writer, as they stand there.
func (w *world) batches() map[string][]joinBatch {
	found := map[string][]joinBatch{}
	log := fencedlog.Log{Pipeline: "joined", Stage: fencedlog.Ingest}
	for lane := range int(w.rec.GetSpec().GetLanes()) {
		w.read(log, lane, func(msg fencedlog.Message) {
			b := joinBatch{lane: lane}
			require.NoError(w.t, b.view.Parse(slices.Clone(msg.Data)))
			require.EqualValues(w.t, batch.FormatJoin, b.view.Format)
			writer := fmt.Sprintf("%s-%d", b.view.Source, b.view.Partition)
			require.Equal(w.t, writer, msg.Writer)
			found[writer] = append(found[writer], b)
		})
	}
	return found
}

// lastOf is what a writer told each lane last.
func lastOf(batches []joinBatch) map[int]batch.View {
	last := map[int]batch.View{}
	for _, b := range batches {
		last[b.lane] = b.view
	}
	return last
}

func TestBothTopicsOfAJoin(t *testing.T) {
	t.Parallel()
	w := newJoinWorld(t, twoTopics, shortJoin, map[string]int32{"orders": 2, "users": 1})
	w.start("a")
	for user := range 20 {
		w.send("orders", int32(user%2), fmt.Sprintf(`{"user_id":%d,"amount":1.5,"at":"2026-01-31T10:00:%02dZ"}`, user, user))
		w.send("users", 0, fmt.Sprintf(`{"id":%d,"name":"n"}`, user))
	}
	w.send("orders", 0, `{"user_id":null,"amount":1,"at":"2026-01-31T10:00:00Z"}`, `{"user_id":1,"amount":1}`)

	type side struct {
		rows  int
		lanes map[[2]uint64]int
		times map[int64]bool
	}
	var sides map[string]*side
	require.Eventually(t, func() bool {
		sides = map[string]*side{"orders": {lanes: map[[2]uint64]int{}, times: map[int64]bool{}}, "users": {lanes: map[[2]uint64]int{}, times: map[int64]bool{}}}
		for _, batches := range w.batches() {
			for _, b := range batches {
				s := sides[string(b.view.Source)]
				s.rows += b.view.Rows
				for row := range b.view.Rows {
					key := b.view.JoinKey(row)
					require.Equal(t, batch.Share(key[0], 4), b.lane)
					s.lanes[key] = b.lane
					s.times[b.view.EventTime(row)] = true
				}
			}
		}
		return sides["orders"].rows == 21 && sides["users"].rows == 20
	}, 2*time.Minute, 50*time.Millisecond)
	require.Contains(t, sides["orders"].lanes, [2]uint64{}, "an event without the key goes to lane 0 without one")
	delete(sides["orders"].lanes, [2]uint64{})
	require.Equal(t, sides["users"].lanes, sides["orders"].lanes, "equal keys meet")
	require.Len(t, sides["orders"].times, 20)
	require.Equal(t, map[int64]bool{1_700_000_000_000: true}, sides["users"].times, "Kafka's timestamp")

	var letters int
	w.read(fencedlog.Log{Pipeline: "joined", Stage: fencedlog.DeadLetters}, lettersLane, func(msg fencedlog.Message) {
		letters++
		require.Equal(t, "ingest-orders-0", msg.Writer, "the one without a time")
	})
	require.Equal(t, 1, letters)
	require.Eventually(t, func() bool {
		statuses, err := w.registry.Statuses(w.ctx, "joined")
		require.NoError(t, err)
		var units []string
		records := uint64(0)
		for _, s := range statuses {
			units = append(units, fmt.Sprintf("%s-%d", s.GetSource(), s.GetUnit()))
			records += s.GetTally().GetRecords()
		}
		return slices.Equal(units, []string{"orders-0", "orders-1", "users-0"}) && records == 42
	}, 2*time.Minute, 50*time.Millisecond)
}

// Every lane learns how far every partition has come and that it is idle, also lanes and partitions without an event; and that it still is, as
// often as the others need that to go on, and no more often.
func TestProgressReachesEveryLane(t *testing.T) {
	t.Parallel()
	w := newJoinWorld(t, twoTopics, shortJoin, map[string]int32{"orders": 2, "users": 1})
	w.start("a")
	w.send("orders", 0, `{"user_id":1,"amount":1,"at":"2026-01-31T10:00:00Z"}`)
	const at = 1_769_853_600_000
	// Longer than anything that waits for event time to go on in this join.
	const long = 4000
	require.Eventually(t, func() bool {
		batches := w.batches()
		for writer, partitions := range map[string]int{"orders-0": 2, "orders-1": 2, "users-0": 1} {
			last := lastOf(batches[writer])
			for lane := range 4 {
				p := last[lane].Progress
				done := p.IdleSinceMS > 0 && last[lane].ArrivalMS-p.IdleSinceMS > long
				if !done || p.Partitions != partitions || p.HasMax != (writer == "orders-0") || p.HasMax && p.MaxEventMS != at {
					return false
				}
			}
		}
		return true
	}, 2*time.Minute, 50*time.Millisecond)
	confirm := spec.Confirm(w.rec.GetSpec()).Milliseconds() // that of few partitions is no longer
	for writer, batches := range w.batches() {
		before := map[int]batch.View{}
		for _, b := range batches {
			p := b.view.Progress
			require.GreaterOrEqual(t, b.view.ArrivalMS, before[b.lane].ArrivalMS, writer)
			require.GreaterOrEqual(t, b.view.ArrivalMS, p.IdleSinceMS, writer)
			require.False(t, before[b.lane].Progress.HasMax && !p.HasMax, writer)
			if b.view.Rows == 0 {
				require.Equal(t, b.view.FirstOffset-1, b.view.LastOffset, "it covers no record")
				require.Zero(t, b.view.ColumnsSize)
			}
			if last := before[b.lane]; last.Progress.IdleSinceMS > 0 {
				require.Less(t, b.view.ArrivalMS-last.ArrivalMS, confirm, "%s: in time for the others to go on", writer)
			}
			before[b.lane] = b.view
		}
		spent := batches[len(batches)-1].view.ArrivalMS - batches[0].view.ArrivalMS
		require.Less(t, int64(len(batches)), 4*(spent/100+5), "%s: at most one message in 100 ms a lane", writer)
	}
}

// One that takes a partition over knows what its predecessor knew.
func TestProgressSurvivesATakeOver(t *testing.T) {
	t.Parallel()
	w := newJoinWorld(t, twoTopics, strings.Replace(shortJoin, "idle: 200ms", "idle: 1h", 1), map[string]int32{"orders": 1, "users": 1})
	a := w.start("a")
	w.send("orders", 0, `{"user_id":1,"amount":1,"at":"2026-01-31T10:00:00Z"}`)
	idle := func(after uint64) (first batch.View) {
		require.Eventually(t, func() bool {
			seen := false
			log := fencedlog.Log{Pipeline: "joined", Stage: fencedlog.Ingest}
			w.read(log, 2, func(msg fencedlog.Message) {
				var v batch.View
				require.NoError(t, v.Parse(slices.Clone(msg.Data)))
				if msg.Sequence > after && string(v.Source) == "orders" && v.Progress.IdleSinceMS > 0 && !seen {
					first, seen = v, true
				}
			})
			return seen
		}, 2*time.Minute, 50*time.Millisecond)
		return first
	}
	before := idle(0)
	a.quit(t)
	stream, err := w.js.Stream(w.ctx, fencedlog.Log{Pipeline: "joined", Stage: fencedlog.Ingest}.Stream())
	require.NoError(t, err)
	last := stream.CachedInfo().State.LastSeq
	w.start("b")
	after := idle(last)
	require.Equal(t, before.Progress, after.Progress)
	require.Greater(t, after.ArrivalMS, before.ArrivalMS)
}

// A partition of which Kafka says nothing is not idle: what is in it would come too late.
func TestSilenceOfKafkaIsNotIdleness(t *testing.T) {
	t.Parallel()
	w := newJoinWorld(t, twoTopics, strings.Replace(shortJoin, "idle: 200ms", "idle: 1h", 1), map[string]int32{"orders": 1, "users": 1})
	e := newEnds(nil, "orders", time.Second, nil)
	_, nothing, something := e.after(0, 0)
	require.False(t, nothing || something, "nobody was asked")

	w.start("a")
	w.send("orders", 0, `{"user_id":1,"amount":1,"at":"2026-01-31T10:00:00Z"}`)
	require.Eventually(t, func() bool {
		return lastOf(w.batches()["orders-0"])[1].Progress.IdleSinceMS > 0
	}, 2*time.Minute, 50*time.Millisecond)
	w.broker.Close()
	closed := time.Now()
	during(2*time.Second, func() {
		for writer, batches := range w.batches() {
			for lane, v := range lastOf(batches) {
				require.False(t, v.Progress.IdleSinceMS > 0 && v.ArrivalMS > closed.UnixMilli(), "%s in lane %d", writer, lane)
			}
		}
	})
}

// during looks again and again, for what must not happen.
func during(span time.Duration, look func()) {
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for began := time.Now(); time.Since(began) < span; <-tick.C {
		look()
	}
}

func TestSelfJoin(t *testing.T) {
	t.Parallel()
	w := newJoinWorld(t, strings.Replace(twoTopics, "topic: users", "topic: orders", 1), shortJoin, map[string]int32{"orders": 2})
	w.start("a")
	w.start("b")
	for n := range 30 {
		w.send("orders", int32(n%2), fmt.Sprintf(`{"user_id":%d,"id":%d,"amount":1,"at":%d}`, n, n, 1_700_000_000_000+n))
	}
	require.Eventually(t, func() bool {
		rows := map[string]int{}
		for writer, batches := range w.batches() {
			for _, b := range batches {
				rows[writer] += b.view.Rows
			}
		}
		return rows["orders-0"] == 15 && rows["orders-1"] == 15 && rows["users-0"] == 15 && rows["users-1"] == 15
	}, 2*time.Minute, 50*time.Millisecond)
}

// However long NATS is away, what Kafka's client holds of large events is bounded, and all of it arrives afterwards.
func TestPrefetchIsBoundedInBytes(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 1)
	i := w.start("a")
	w.produce(0, event(0))
	w.settled()
	w.nats.Stop()
	const count = 80
	for n := range count {
		w.produce(0, fmt.Sprintf(`{"id":%d,"text":%q}`, n+1, strings.Repeat("x", 700<<10)))
	}
	held := func() (bytes int64, paused bool) {
		i.mu.Lock()
		defer i.mu.Unlock()
		for s := range i.active {
			s.prefetch.mu.Lock()
			for _, p := range s.prefetch.partitions {
				bytes, paused = max(bytes, p.bytes), paused || p.paused
			}
			s.prefetch.mu.Unlock()
		}
		return bytes, paused
	}
	var most int64
	require.Eventually(t, func() bool {
		bytes, paused := held()
		most = max(most, bytes)
		return paused
	}, 2*time.Minute, 10*time.Millisecond)
	during(time.Second, func() {
		bytes, _ := held()
		most = max(most, bytes)
	})
	require.Less(t, most, int64(maxPrefetch+4<<20), "one fetched response more than the limit")
	w.nats.Start()
	w.settled()
	w.requireOnce(1, count+1)
	bytes, paused := held()
	require.Zero(t, bytes)
	require.False(t, paused)
}

// A topic that grows is read while the rest goes on, and from then on all its partitions say so: none is passed over by the watermark.
func TestGrowingTopicOfAJoin(t *testing.T) {
	t.Parallel()
	w := newJoinWorld(t, twoTopics, shortJoin, map[string]int32{"orders": 1, "users": 1})
	w.start("a")
	w.send("orders", 0, `{"user_id":1,"amount":1,"at":"2026-01-31T10:00:00Z"}`)
	told := func(writer string, partitions int, event int64) bool {
		last := lastOf(w.batches()[writer])
		for lane := range 4 {
			if p := last[lane].Progress; p.Partitions != partitions || p.MaxEventMS != event {
				return false
			}
		}
		return true
	}
	const at = 1_769_853_600_000
	require.Eventually(t, func() bool { return told("orders-0", 1, at) }, 2*time.Minute, 50*time.Millisecond)
	_, err := w.admin.CreatePartitions(w.ctx, 2, "orders")
	require.NoError(t, err)
	w.send("orders", 1, `{"user_id":2,"amount":1,"at":"2026-01-31T09:59:00Z"}`)
	w.send("orders", 0, `{"user_id":3,"amount":1,"at":"2026-01-31T10:00:01Z"}`)
	require.Eventually(t, func() bool {
		return told("orders-0", 3, at+1000) && told("orders-1", 3, at-60_000) && told("orders-2", 3, 0)
	}, 2*time.Minute, 50*time.Millisecond)
}

// An event with a time far ahead is read as any other, but it is not how far its partition has come.
func TestTimesFarAheadAreNoProgress(t *testing.T) {
	t.Parallel()
	w := newJoinWorld(t, twoTopics, shortJoin, map[string]int32{"orders": 1, "users": 1})
	w.start("a")
	soon, far := time.Now().Add(30*time.Minute).UTC().Truncate(time.Second), time.Now().Add(2*time.Hour).UTC()
	for i, at := range []time.Time{far, soon, far} {
		w.send("orders", 0, fmt.Sprintf(`{"user_id":%d,"amount":1,"at":%q}`, i, at.Format(time.RFC3339)))
	}
	require.Eventually(t, func() bool {
		batches, rows := w.batches()["orders-0"], 0
		for _, b := range batches {
			rows += b.view.Rows
			if p := b.view.Progress; p.HasMax {
				require.Equal(t, soon.UnixMilli(), p.MaxEventMS)
			}
		}
		last := lastOf(batches)
		return rows == 3 && last[0].Progress.HasMax && last[3].Progress.HasMax
	}, 2*time.Minute, 50*time.Millisecond)
}
