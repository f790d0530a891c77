package join

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/types/known/durationpb"

	controlv1 "sluice/gen/sluice/control/v1"
	"sluice/libs/batch"
	"sluice/libs/lanes"
)

func TestPairsAndUnmatched(t *testing.T) {
	w := newWorld(t, nil)
	o := newOwner()
	stop := w.running(o, w.js, 20*time.Millisecond)
	orders, users := w.producer("orders", 0), w.producer("users", 0)
	orders.send(order(100_000, "ann", "o1", 5), order(101_000, "bob", "o2", -6), order(101_000, "", "o3", 7))
	users.send(user(95_000, "ann", `"Ann"`, 31, `"pro"`), user(110_000, "ann", "", 32, ""), user(300_000, "", `"nobody"`, 1, ""))
	orders.send(order(300_000, "cy", "o4", 8))
	s := w.covered(o)
	require.Equal(t, map[string]uint64{"orders": 1, "users": 0}, s.GetBufferedRows())
	require.Equal(t, map[string]int64{"orders": 298_000, "users": 298_000}, s.GetWatermarkMs())
	require.EqualValues(t, 7, s.GetTally().GetRecords())
	require.EqualValues(t, 4, s.GetTally().GetRows())
	require.EqualValues(t, 1, s.GetTally().GetMatched())
	require.EqualValues(t, 2, s.GetTally().GetUnmatched())
	require.EqualValues(t, 1, s.GetTally().GetDropped())
	require.NoError(t, stop(lanes.ErrStopping))
	rows, messages := w.output()
	require.Equal(t, []string{"o3 NULL 7 0 DEFAULT", "o1 Ann 5 31 pro", "o1 NULL 5 32 DEFAULT", "o2 NULL -6 0 DEFAULT"}, texts(rows))
	require.Equal(t, batch.Origin{LeftOffset: 0, RightOffset: 1, EventMS: 100_000}, rows[2].origin)
	require.Equal(t, batch.Origin{LeftOffset: 1, RightPartition: batch.NoRight, EventMS: 101_000}, rows[3].origin)
	last := messages[len(messages)-1]
	require.EqualValues(t, 4, last.Tally.Rows)
	require.EqualValues(t, 2, last.Tally.Unmatched)
}

// TestSilence: both topics have fallen silent, and the left row comes out all the same.
func TestSilence(t *testing.T) {
	w := newWorld(t, nil)
	o := newOwner()
	orders, users := w.producer("orders", 0), w.producer("users", 0)
	orders.send(order(100_000, "ann", "o1", 5))
	users.send(user(100_000, "bob", `"Bob"`, 1, ""))
	for _, d := range []time.Duration{time.Second, 12 * time.Second, 13 * time.Second} {
		orders.idle(d)
		users.idle(d)
	}
	stop := w.running(o, w.js, 20*time.Millisecond)
	require.EqualValues(t, 1, w.covered(o).GetTally().GetUnmatched())
	require.NoError(t, stop(lanes.ErrStopping))
	rows, _ := w.output()
	require.Equal(t, []string{"o1 NULL 5 0 DEFAULT"}, texts(rows))
}

func TestLateRowsAreDeadLetters(t *testing.T) {
	w := newWorld(t, nil)
	w.produce("orders", `{"order":"o1"}`, `{"order":"o2"}`, `{"order":"o3"}`)
	o := newOwner()
	orders, users := w.producer("orders", 0), w.producer("users", 0)
	orders.send(order(100_000, "ann", "o1", 5))
	users.send(user(100_000, "bob", `"Bob"`, 1, ""))
	orders.send(order(97_999, "ann", "o2", 5), order(98_000, "bob", "o3", 5))
	stop := w.running(o, w.js, 20*time.Millisecond)
	s := w.covered(o)
	require.EqualValues(t, 1, s.GetTally().GetLate())
	require.EqualValues(t, 1, s.GetTally().GetDeadLetters())
	require.NoError(t, stop(lanes.ErrStopping))
	letters := w.letters()
	require.Len(t, letters, 1)
	require.Equal(t, "join", letters[0].GetStage())
	require.Equal(t, "orders", letters[0].GetTopic())
	require.EqualValues(t, 1, letters[0].GetOffset())
	require.JSONEq(t, `{"order":"o2"}`, string(letters[0].GetValue()))
	require.Equal(t, "late: its event time 1970-01-01T00:01:37.999Z is before the watermark 1970-01-01T00:01:38.000Z; raise join.grace to take rows that late",
		letters[0].GetReason())
	rows, _ := w.output()
	require.Equal(t, []string{"o3 Bob 5 1 DEFAULT"}, texts(rows))
}

// TestATimeFarAhead: one broken clock costs its own row, and makes no other late, whether the ingestor has left its time out or not.
func TestATimeFarAhead(t *testing.T) {
	w := newWorld(t, func(j *controlv1.Join) { j.MaxFuture = durationpb.New(time.Minute) })
	w.record.Spec.Sources["orders"].Time = "at"
	w.produce("orders", `{"order":"o1"}`, `{"order":"o2"}`, `{"order":"o3"}`)
	w.produce("users", `{"name":"Zoe"}`)
	orders, users := w.producer("orders", 0), w.producer("users", 0)
	orders.send(order(1_000_000, "ann", "o1", 5))
	orders.send(order(1_060_001, "ann", "o2", 5))
	users.send(user(9_000_000, "zoe", `"Zoe"`, 1, ""), user(1_000_000, "bob", `"Bob"`, 1, ""))
	orders.send(order(1_000_000, "bob", "o3", 5))
	o := newOwner()
	stop := w.running(o, w.js, 20*time.Millisecond)
	s := w.covered(o)
	require.Zero(t, s.GetTally().GetLate())
	require.EqualValues(t, 2, s.GetTally().GetDeadLetters())
	require.Equal(t, int64(998_000), s.GetWatermarkMs()["orders"])
	require.NoError(t, stop(lanes.ErrStopping))
	rows, _ := w.output()
	require.Equal(t, []string{"o3 Bob 5 1 DEFAULT"}, texts(rows))
	letters := w.letters()
	require.Len(t, letters, 2)
	require.JSONEq(t, `{"order":"o2"}`, string(letters[0].GetValue()))
	require.Equal(t, "future: its event time, field at, is 1970-01-01T00:17:40.001Z, more than join.max_future (1m0s) after its arrival at 1970-01-01T00:16:40.000Z; "+
		"mend the clock that set it, or raise join.max_future to take rows that far ahead", letters[0].GetReason())
	require.Contains(t, letters[1].GetReason(), "the Kafka timestamp, is 1970-01-01T02:30:00.000Z")
}
