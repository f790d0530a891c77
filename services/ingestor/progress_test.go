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

// Where dedup goes by a field of the event, each lane hears how far each partition has come by that field, and that there is nothing to read.
func TestProgressForDedup(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 1)
	_, err := w.admin.CreateTopic(w.ctx, 2, 1, nil, "logins")
	require.NoError(t, err)
	p, err := spec.Parse("test", fmt.Appendf(nil, "id: timed\nsource: {kafka: {brokers: [%q], topic: logins}}\ndedup: {key: [id], window: 1s, time: at}\n"+
		"sink: {clickhouse: {addr: [localhost:9000], table: logins}}\nbatch: {max_delay: 20ms}\n", w.kafka))
	require.NoError(t, err)
	w.rec = &controlv1.PipelineRecord{
		Spec: spec.WithDefaults(p), Uid: "u2", Desired: controlv1.DesiredState_RUNNING, Generation: 1,
		Schemas: []*controlv1.Schema{{Revision: 1, Columns: []*controlv1.SchemaColumn{{Name: "id", Type: "UInt64", From: "id"}}}},
	}
	log := fencedlog.Log{Pipeline: "timed", Stage: fencedlog.Ingest}
	for _, stage := range []string{fencedlog.Ingest, fencedlog.DeadLetters} {
		require.NoError(t, fencedlog.Ensure(w.ctx, w.js, fencedlog.Log{Pipeline: "timed", Stage: stage}, fencedlog.Limits{}))
	}
	_, err = w.registry.Create(w.ctx, w.rec)
	require.NoError(t, err)

	type at struct {
		lane      int
		partition int32
	}
	last := func() map[at]batch.View {
		out := map[at]batch.View{}
		for lane := range int(w.rec.GetSpec().GetLanes()) {
			w.read(log, lane, func(msg fencedlog.Message) {
				var v batch.View
				require.NoError(t, v.Parse(slices.Clone(msg.Data)))
				require.Equal(t, 2, v.Progress.Partitions)
				require.True(t, v.Progress.TellsDedup)
				require.False(t, v.Progress.HasMax)
				out[at{lane, v.Partition}] = v
			})
		}
		return out
	}
	told := func(partition int32, maxMS int64, idle bool) func() bool {
		return func() bool {
			all := last()
			for lane := range int(w.rec.GetSpec().GetLanes()) {
				p := all[at{lane, partition}].Progress
				if p.HasDedup != (maxMS > 0) || p.MaxDedupMS != maxMS || p.IdleSinceMS > 0 != idle {
					return false
				}
			}
			return true
		}
	}
	const ms = 1_769_853_600_000
	began := time.Now().UnixMilli()
	a := w.start("a")
	w.send("logins", 0, `{"id":1,"at":"2026-01-31T10:00:00Z"}`, `{"id":2,"at":"2026-01-31T09:00:00Z"}`)
	require.Eventually(t, told(0, ms, true), 2*time.Minute, 50*time.Millisecond)
	require.Eventually(t, told(1, 0, true), 2*time.Minute, 50*time.Millisecond)
	require.GreaterOrEqual(t, last()[at{0, 1}].Progress.IdleSinceMS, began)
	// A time in the future moves nothing beyond the arrival.
	w.send("logins", 1, `{"id":3,"at":"2100-01-31T10:00:00Z"}`)
	require.Eventually(t, func() bool {
		p := last()[at{0, 1}].Progress
		return p.HasDedup && p.MaxDedupMS >= began && p.MaxDedupMS <= time.Now().UnixMilli()
	}, 2*time.Minute, 50*time.Millisecond)
	// Events without a time say nothing of it, and that they do is said again and again.
	sent := time.Now().UnixMilli()
	untimed := map[int64]bool{}
	require.Eventually(t, func() bool {
		w.send("logins", 1, `{"id":4,"at":"never"}`)
		for lane := range 4 {
			v := last()[at{lane, 1}]
			if v.Progress.UntimedMS == 0 {
				return false
			}
			require.Less(t, v.Progress.UntimedMS, sent)
			require.True(t, v.Progress.HasDedup)
			untimed[v.ArrivalMS] = true
		}
		return len(untimed) > 4
	}, 2*time.Minute, 200*time.Millisecond)
	w.send("logins", 1, `{"id":5,"at":"2026-01-31T10:00:00Z"}`)
	require.Eventually(t, func() bool { return last()[at{0, 1}].Progress.UntimedMS == 0 }, 2*time.Minute, 50*time.Millisecond)
	a.quit(t)
	// The next one says nothing of event time before it has read an event, but since when there is nothing to read.
	w.start("b")
	require.Eventually(t, told(0, 0, true), 2*time.Minute, 50*time.Millisecond)
	require.Less(t, last()[at{0, 0}].Progress.IdleSinceMS, time.Now().UnixMilli()-500)
}

// However many partitions there are, what they say while nothing comes is bounded.
func TestIdleTrafficIsBounded(t *testing.T) {
	t.Parallel()
	w := newJoinWorld(t, twoTopics, "{left: orders, right: users, on: [{left: user_id, right: id}], kind: LOOKUP, grace: 0s}", map[string]int32{"orders": 16, "users": 16})
	w.start("a")
	stream, err := w.js.Stream(w.ctx, fencedlog.Log{Pipeline: "joined", Stage: fencedlog.Ingest}.Stream())
	require.NoError(t, err)
	said := func() uint64 {
		info, err := stream.Info(w.ctx)
		require.NoError(t, err)
		return info.State.LastSeq
	}
	const all = 2 * 16 * 4
	require.Eventually(t, func() bool { return said() > 2*32+2*all }, 2*time.Minute, 50*time.Millisecond)
	began, before := time.Now(), said()
	time.Sleep(5 * time.Second) // traffic is over time
	rate := float64(said()-before-32) / time.Since(began).Seconds()
	t.Logf("%.0f messages a second", rate)
	require.Less(t, rate, 130.0, "a second") // a round more or less, and the fences
	require.Greater(t, said()-before, uint64(all), "each goes on saying it")
}

// A record of a transaction that is open cannot be read yet: its partition is not idle, and says so as soon as Kafka does. Once the transaction is over, it is
// again since its last record.
func TestOpenTransactionIsNotIdleness(t *testing.T) {
	t.Parallel()
	w := newJoinWorld(t, twoTopics, strings.Replace(shortJoin, "idle: 200ms", "idle: 1h", 1), map[string]int32{"orders": 1, "users": 1})
	w.start("a")
	w.send("orders", 0, `{"user_id":1,"amount":1,"at":"2026-01-31T10:00:00Z"}`)
	idle := func(want bool) func() bool {
		return func() bool {
			last := lastOf(w.batches()["orders-0"])
			for lane := range 4 {
				if (last[lane].Progress.IdleSinceMS > 0) != want {
					return false
				}
			}
			return true
		}
	}
	require.Eventually(t, idle(true), 2*time.Minute, 50*time.Millisecond)
	tx, err := kgo.NewClient(kgo.SeedBrokers(w.kafka), kgo.TransactionalID("open"), kgo.RecordPartitioner(kgo.ManualPartitioner()))
	require.NoError(t, err)
	defer tx.Close()
	require.NoError(t, tx.BeginTransaction())
	require.NoError(t, tx.ProduceSync(w.ctx, &kgo.Record{Topic: "orders", Value: []byte(`{"user_id":2,"amount":1,"at":"2026-01-31T10:00:01Z"}`)}).FirstErr())
	require.Eventually(t, idle(false), 30*time.Second, 50*time.Millisecond)
	during(time.Second, func() { require.True(t, idle(false)()) })
	require.NoError(t, tx.EndTransaction(w.ctx, kgo.TryAbort))
	require.Eventually(t, idle(true), 2*time.Minute, 50*time.Millisecond)
	const at = 1_769_853_600_000
	require.EqualValues(t, at, lastOf(w.batches()["orders-0"])[0].Progress.MaxEventMS)
}
