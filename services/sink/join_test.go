package sink

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	controlv1 "sluice/gen/sluice/control/v1"
	"sluice/libs/batch"
	"sluice/libs/fencedlog"
	"sluice/libs/lanes"
)

// newJoin is a world whose log is a join's. The left records are in the topic events.
func newJoin(t *testing.T) *world {
	w := newWorld(t, 1)
	spec := w.record.GetSpec()
	kafka := spec.GetSource().GetKafka()
	spec.Source = nil
	spec.Sources = map[string]*controlv1.Source{
		"orders": {Kafka: kafka}, "users": {Kafka: &controlv1.KafkaSource{Brokers: kafka.GetBrokers(), Topic: "users"}},
	}
	spec.Join = &controlv1.Join{Left: "orders", Right: "users", On: []*controlv1.JoinOn{{Left: "user_id", Right: "id"}}}
	w.stage = fencedlog.Join
	require.NoError(t, fencedlog.Ensure(t.Context(), w.js, w.log(), fencedlog.Limits{}))
	w.open()
	return w
}

// join appends the events as a join puts them out: row i is made of the left record at offset first + i/2, so that some records have
// several rows; the partitions take turns.
func (w *world) join(events []event, first int64, position string) {
	w.t.Helper()
	v := w.view(events, 0)
	v.Topic, v.TopicID, v.Offsets, v.FirstOffset, v.LastOffset = nil, nil, nil, 0, 0
	for i := range events {
		v.Origins = batch.AppendOrigin(v.Origins, batch.Origin{
			LeftPartition: int32(i % 2), LeftOffset: first + int64(i/2), RightPartition: batch.NoRight, RightOffset: -1,
		})
	}
	_, err := w.writer.Append(w.t.Context(), 0, position, v.Append(nil))
	require.NoError(w.t, err)
}

// A joined row that the table refuses is named by its left record; the ledger counts by left partition.
func TestJoinedRows(t *testing.T) {
	w := newJoin(t)
	left := rowsOf(0, 3)
	first := w.produce(left)
	events := rowsOf(100, 6)
	events[4].ID = 2_000_000 // partition 0, the third record
	w.join(events, first, "7/0")
	w.join(rowsOf(200, 5), first, "7")
	o := newOwner()
	stop := w.start(o, "one", 0, w.js)
	o.waitFor(t, 11)
	require.NoError(t, stop(lanes.ErrStopping))
	require.Equal(t, "10/10", w.table())
	letters := w.letters()
	require.Len(t, letters, 1)
	require.Equal(t, "events", letters[0].GetTopic())
	require.Equal(t, first+2, letters[0].GetOffset())
	require.Equal(t, fmt.Sprintf(`{"id":2,"text":%q}`, left[2].Text), string(letters[0].GetValue()))
	require.Equal(t, "sink", letters[0].GetStage())
	sum := w.balances("")
	require.Equal(t, []int32{0, 1}, sum.IDs())
	require.EqualValues(t, 5, sum.Partition(0).Rows)
	require.EqualValues(t, 1, sum.Partition(0).Refused)
	require.EqualValues(t, 5, sum.Partition(1).Rows)
	require.Equal(t, "7", w.position(0).GetPositions()["0"])
	require.Empty(t, w.position(0).GetTaken())
}

// The join puts out again what its log has lost, the same messages under the same positions.
func TestTailLossOfAJoin(t *testing.T) {
	w := newJoin(t)
	position := func(i int) string { // steps of three parts
		if i%3 == 2 {
			return fmt.Sprint(7 + i/3)
		}
		return fmt.Sprintf("%d/%d", 7+i/3, i%3)
	}
	put := func(from, to int) {
		for i := from; i < to; i++ {
			w.join(rowsOf(i*10, 10), int64(i*10), position(i))
		}
	}
	put(0, 4)
	for round := range 6 {
		lose := w.keep()
		at := 4 + 5*round
		put(at, at+4)
		// The sink dies at one step or another of the block.
		f := &faults{JetStream: w.js, at: int64(round), mode: crashed}
		f.what.Store(new(string))
		w.runFaulty(f, uint64(at+4)*10)
		lose(theJoin)
		w.open()      // a fence more: other sequences
		put(at, at+5) // one of them is new
		heir := newOwner()
		stop := w.start(heir, "heir", 0, w.js)
		heir.waitFor(t, (at+5)*10)
		require.NoError(t, stop(lanes.ErrStopping))
		w.eachRowOnce((at+5)*10, *f.what.Load())
	}
}
