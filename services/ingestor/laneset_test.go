package ingestor

import (
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kgo"
	"google.golang.org/protobuf/proto"

	controlv1 "sluice/gen/sluice/control/v1"
	eventv1 "sluice/gen/sluice/event/v1"
	"sluice/libs/checkpoint"
	"sluice/libs/fencedlog"
	"sluice/libs/fold"
	"sluice/libs/rows"
	"sluice/libs/spec"
)

// TestChangeOfLanesInThePosition: what lanes of the set before have is known from their last messages, then from the fence, until all of it has gone by.
func TestChangeOfLanesInThePosition(t *testing.T) {
	id := topicID{7}
	settled := func(p position) []byte {
		body, err := p.body("t", 0)
		require.NoError(t, err)
		return body
	}
	old := position{id: id, next: 10}
	last := func(offsets map[int]int64) map[int]fencedlog.Last {
		out := map[int]fencedlog.Last{}
		for lane, next := range offsets {
			out[lane] = fencedlog.Last{Position: token(id, next, 0)}
		}
		return out
	}
	sets := laneSets{current: spec.LaneSet{First: 2, Count: 3}, before: spec.LaneSet{First: 0, Count: 2}}
	recover := func(t *testing.T, sets laneSets, log fencedlog.Recovered) position {
		p, err := recoverPosition(id, 0, sets, log, "")
		require.NoError(t, err)
		return p
	}

	first := recover(t, sets, fencedlog.Recovered{Body: settled(old), Last: last(map[int]int64{0: 14, 1: 8})})
	require.True(t, first.changed, "to be settled before anything is appended")
	require.Equal(t, []int64{10, 10, 10}, first.lanes)
	require.Equal(t, []int64{14, 10}, first.before.offsets)
	require.EqualValues(t, 14, first.highest())

	// The old lanes' messages may be purged now.
	again := recover(t, sets, fencedlog.Recovered{Body: settled(first), Last: last(map[int]int64{3: 12})})
	require.False(t, again.changed)
	require.Equal(t, []int64{14, 10}, again.before.offsets)
	require.Equal(t, []int64{10, 12, 10}, again.lanes)
	// ... also when the record does not have the old set any more, or another incarnation of the topic began.
	require.Equal(t, []int64{14, 10}, recover(t, laneSets{current: sets.current}, fencedlog.Recovered{Body: settled(first)}).before.offsets)
	anew, err := recoverPosition(topicID{8}, 5, sets, fencedlog.Recovered{Body: settled(first)}, "")
	require.NoError(t, err)
	require.Empty(t, anew.before.offsets)
	require.EqualValues(t, 5, anew.next)

	// By the record's offset and its share among the old lanes.
	plan, err := rows.NewPlan(nil, nil)
	require.NoError(t, err)
	has := func(offset int64) bool {
		return again.before.has(rows.Row{}, plan, []byte("key"), 0, offset)
	}
	share := plan.Lane(rows.Row{}, []byte("key"), 0, 2)
	for offset := int64(9); offset < 16; offset++ {
		require.Equal(t, offset < again.before.offsets[share], has(offset))
	}

	// Kafka lost the end: those offsets are given out again.
	cut := again
	require.True(t, cut.fit("t", 0, 0, 11, time.Now()))
	require.Equal(t, []int64{11, 10}, cut.before.offsets)

	passed := again
	passed.next = 14
	var body eventv1.IngestPosition
	require.NoError(t, proto.Unmarshal(settled(passed), &body))
	require.Empty(t, body.BeforeOffsets, "it has gone over for good")
	require.EqualValues(t, 2, body.LanesFrom)

	// A writer that was killed before it settled anything.
	unsettled := recover(t, sets, fencedlog.Recovered{Last: last(map[int]int64{1: 6})})
	require.True(t, unsettled.changed)
	require.Equal(t, []int64{0, 6}, unsettled.before.offsets)

	_, err = recoverPosition(id, 0, lanesFrom0(2), fencedlog.Recovered{Body: settled(first)}, "")
	require.ErrorIs(t, err, errOldRecord)
	later := laneSets{current: spec.LaneSet{First: 5, Count: 2}}
	_, err = recoverPosition(id, 0, later, fencedlog.Recovered{Body: settled(first)}, "")
	require.ErrorIs(t, err, fencedlog.ErrTailLost, "the change was finished, and the fence is of before it")
}

// TestChangeOfLanesWithFewerPartitions: partitions that a topic has no more do not keep the lanes of before open.
func TestChangeOfLanesWithFewerPartitions(t *testing.T) {
	w := newWorld(t, 3)
	i := w.start("a")
	for partition := range int32(3) {
		w.produce(partition, event(int(partition)))
	}
	w.settled()
	_, err := w.admin.DeleteTopics(w.ctx, "events")
	require.NoError(t, err)
	w.createTopic(1)
	rec, rev, err := w.registry.Get(w.ctx, "events")
	require.NoError(t, err)
	count := rec.Spec.Lanes
	rec.Generation, rec.Spec.Lanes = rec.Generation+1, 3
	rec.LaneSets = []*controlv1.LaneSet{{First: 0, Count: count}, {First: count, Count: 3}}
	_, err = w.registry.Update(w.ctx, rec, rev)
	require.NoError(t, err)
	require.Eventually(t, func() bool {
		over, err := fold.IngestOver(w.ctx, w.js, "events", 0)
		return err == nil && over
	}, 2*time.Minute, 50*time.Millisecond, "all three writers have gone over")
	i.quit(t)
}

// TestChangeOfLanesInALogThatHasLostItsTail: what lanes of before have read is not in the log any more. It does not go into the new lanes, which would take it
// again, until those before have made good for it, or are closed and their keys known.
func TestChangeOfLanesInALogThatHasLostItsTail(t *testing.T) {
	w := newWorld(t, 1)
	w.produce(0, event(1), event(2))
	_, err := w.js.CreateKeyValue(w.ctx, jetstream.KeyValueConfig{Bucket: checkpoint.Bucket("events")})
	require.NoError(t, err)
	lane, m, err := checkpoint.Open(w.ctx, checkpoint.Config{JS: w.js, Pipeline: "events", Stage: spec.StageDedup})
	require.NoError(t, err)
	read := proto.CloneOf(m)
	read.CoveredSequence, read.CoveredTimeNs = 100, time.Now().UnixNano()
	require.NoError(t, lane.Save(w.ctx, read, nil))
	rec, rev, err := w.registry.Get(w.ctx, "events")
	require.NoError(t, err)
	rec.Generation, rec.Spec.Lanes = rec.Generation+1, 3
	rec.LaneSets = []*controlv1.LaneSet{{First: 0, Count: 1}, {First: 1, Count: 3}}
	_, err = w.registry.Update(w.ctx, rec, rev)
	require.NoError(t, err)
	i := w.start("a")
	over := func() bool {
		over, err := fold.IngestOver(w.ctx, w.js, "events", 0)
		fences, listed := fencedlog.Fences(w.ctx, w.js, fencedlog.Log{Pipeline: "events", Stage: fencedlog.Ingest})
		return err == nil && listed == nil && over && len(fences) > 0
	}
	require.Eventually(t, func() bool {
		units, err := w.registry.Statuses(w.ctx, "events")
		require.NoError(t, err)
		for _, u := range units {
			if strings.Contains(u.GetLastError(), "lost its tail") {
				return true
			}
		}
		return false
	}, time.Minute, 20*time.Millisecond)
	require.False(t, over())
	for lane := range 4 {
		last, err := fencedlog.LastOf(w.ctx, w.js, fencedlog.Log{Pipeline: "events", Stage: fencedlog.Ingest}, lane)
		require.NoError(t, err)
		require.Zero(t, last)
	}
	read.Closed = true
	require.NoError(t, lane.Save(w.ctx, read, nil))
	require.Eventually(t, over, time.Minute, 20*time.Millisecond)
	i.quit(t)
}

// TestChangeOfLanesWhereRecordsAreGone: what a lane of before had read beyond the position has left the topic since, as compaction and the end of a tombstone's
// time do it, and nothing comes after it. That does not keep the lanes of before open.
func TestChangeOfLanesWhereRecordsAreGone(t *testing.T) {
	w := newWorld(t, 1)
	client, err := kgo.NewClient(kgo.SeedBrokers(w.kafka), kgo.TransactionalID("gone"), kgo.DefaultProduceTopic("events"))
	require.NoError(t, err)
	defer client.Close()
	// No consumer sees these: they stand for what is gone.
	require.NoError(t, client.BeginTransaction())
	for range 3 {
		require.NoError(t, client.ProduceSync(w.ctx, &kgo.Record{Value: []byte(`{"id":1}`)}).FirstErr())
	}
	require.NoError(t, client.EndTransaction(w.ctx, kgo.TryAbort))
	topics, err := w.admin.ListTopics(w.ctx, "events")
	require.NoError(t, err)
	writer, _, err := fencedlog.Open(w.ctx, w.js, fencedlog.Log{Pipeline: "events", Stage: fencedlog.Ingest}, "0", fencedlog.Options{})
	require.NoError(t, err)
	_, err = writer.Append(w.ctx, 0, token(topics["events"].ID, 3, 0), []byte("a batch"))
	require.NoError(t, err)
	rec, rev, err := w.registry.Get(w.ctx, "events")
	require.NoError(t, err)
	count := rec.Spec.Lanes
	rec.Generation, rec.Spec.Lanes = rec.Generation+1, 3
	rec.LaneSets = []*controlv1.LaneSet{{First: 0, Count: count}, {First: count, Count: 3}}
	_, err = w.registry.Update(w.ctx, rec, rev)
	require.NoError(t, err)
	i := w.start("a")
	require.Eventually(t, func() bool {
		over, err := fold.IngestOver(w.ctx, w.js, "events", 0)
		return err == nil && over
	}, time.Minute, 50*time.Millisecond)
	i.quit(t)
}
