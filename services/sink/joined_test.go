package sink

import (
	"fmt"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/proto"

	eventv1 "sluice/gen/sluice/event/v1"
	"sluice/libs/batch"
	"sluice/libs/fencedlog"
	"sluice/libs/lanes"
)

// pairs is a message of events as a join puts them out: each is made of the left and of the right record of its offset, which is its id.
func (w *world) pairs(events []event) *batch.View {
	w.t.Helper()
	v := w.view(events, 0)
	v.Topic, v.TopicID, v.Offsets, v.FirstOffset, v.LastOffset = nil, nil, nil, 0, 0
	next := int64(0)
	for _, e := range events {
		at := int64(e.ID)
		v.Origins = batch.AppendOrigin(v.Origins, batch.Origin{LeftOffset: at, RightOffset: at})
		next = max(next, at+1)
	}
	id := make([]byte, 16)
	past, err := proto.Marshal(&eventv1.JoinPast{Own: map[string]*eventv1.Taken{
		"orders-0/orders/0": {TopicId: id, NextOffset: next}, "users-0/users/0": {TopicId: id, NextOffset: next},
	}})
	require.NoError(w.t, err)
	v.JoinPast = past
	return v
}

// paired appends events as pairs.
func (w *world) paired(events []event, position string) {
	w.t.Helper()
	v := w.pairs(events)
	_, err := w.writer.Append(w.t.Context(), 0, position, v.Append(nil))
	require.NoError(w.t, err)
}

// seenUpTo is what the ingestor's fences say once the store went back.
func (w *world) seenUpTo(next, seen int64) {
	w.t.Helper()
	for _, source := range []string{"orders", "users"} {
		topic := map[string]string{"orders": "events", "users": "users"}[source]
		writer, _, err := fencedlog.Open(w.t.Context(), w.js, fencedlog.Log{Pipeline: "p", Stage: fencedlog.Ingest}, source+"-0", fencedlog.Options{Lanes: []int{0}})
		require.NoError(w.t, err)
		body, err := proto.Marshal(&eventv1.IngestPosition{Topic: topic, TopicId: make([]byte, 16), NextOffset: next, SeenOffset: seen})
		require.NoError(w.t, err)
		require.NoError(w.t, writer.Settle(w.t.Context(), body))
	}
}

// All of the store goes back under a join, which puts the same rows out again, in another order, between new ones: each is in the table once, those too
// that had come further than Kafka's group knew.
func TestTheWholeStoreGoesBackUnderAJoin(t *testing.T) {
	w := newJoin(t)
	events := rowsOf(0, 120)
	run := func(rows int) *owner {
		o := newOwner()
		stop := w.start(o, "i", 0, w.js)
		o.waitFor(t, rows)
		require.NoError(t, stop(lanes.ErrStopping))
		return o
	}
	w.paired(events[:10], "1")
	run(10)
	require.EqualValues(t, 10, w.position(0).GetJoined()["orders-0/orders/0"].GetNextOffset())
	lose := w.keep()
	for i := range 5 {
		w.paired(events[10+10*i:20+10*i], fmt.Sprint(2+i))
	}
	run(60)
	lose(theLog, theJoin, theBucket)
	w.open()
	w.forgetTokens(17)
	w.seenUpTo(10, 55)
	again := slices.Concat(events[10:20], events[30:100]) // the others wait
	slices.Reverse(again[5:])
	for i := range 8 {
		w.paired(again[10*i:10*i+10], fmt.Sprint(2+i))
	}
	o := run(90)
	require.Equal(t, "100/100", w.table())
	require.Contains(t, o.snapshot().GetLastError(), "the store went back")
	require.Contains(t, o.snapshot().GetLastError(), "what lane 0 has of the join was made of offsets up to 9")
	require.EqualValues(t, 40, o.snapshot().GetHealedRows())

	// The sink is started anew before the last of them come.
	far := rowsOf(200, 10)
	at := joinedOffsets{{0: 55}, {0: 55}}
	require.True(t, at.may(batch.Origin{LeftOffset: 60, RightOffset: 54}))
	require.False(t, at.may(batch.Origin{LeftOffset: 60, RightOffset: 55 + uncommitted}))
	require.True(t, at.may(batch.Origin{LeftOffset: 60, RightPartition: batch.NoRight, RightOffset: 1 << 40}))
	late := slices.Concat(events[100:120], events[20:30], far)
	w.paired(late, "11")
	o = run(130)
	require.Equal(t, "130/130", w.table())
	require.EqualValues(t, 50, o.snapshot().GetHealedRows())
	w.balances("")
}

// Only the ingest log goes back: the lane has what it ever had, and does not look for anything.
func TestOnlyTheIngestLogGoesBackUnderAJoin(t *testing.T) {
	w := newJoin(t)
	w.paired(rowsOf(0, 10), "1")
	o := newOwner()
	stop := w.start(o, "i", 0, w.js)
	o.waitFor(t, 10)
	require.NoError(t, stop(lanes.ErrStopping))
	w.seenUpTo(5, 8)
	l := w.lane(newOwner(), "i", 0, w.js)
	defer l.inserter.Close()
	require.NoError(t, l.take(t.Context()))
	require.Nil(t, l.suspicion)
}
