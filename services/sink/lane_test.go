package sink

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	stagev1 "sluice/gen/sluice/stage/v1"
	"sluice/libs/fencedlog"
	"sluice/libs/lanes"
	"sluice/libs/playground/nats/natstest"
)

func TestRowsArriveOnceWithDefaults(t *testing.T) {
	w := newWorld(t, 1)
	o := newOwner()
	stop := w.start(o, "one", 0, w.js)
	w.send(0, rowsOf(0, 900))
	w.send(0, rowsOf(900, 900), 0, 1, 2, 899) // dropped upstream as duplicates
	w.send(0, rowsOf(5000, 3), 0, 1, 2)       // nothing left
	o.waitFor(t, 900+896)
	require.Equal(t, "1796/1796", w.table())
	// Each third row carries n, the others take the table's default.
	require.Equal(t, "1197", w.ask("SELECT toString(countIf(n = 7 AND id % 3 != 0)) FROM "+w.database+".t"))
	require.Equal(t, "0", w.ask("SELECT toString(countIf(id % 3 = 0 AND n != id % 900)) FROM "+w.database+".t"))
	require.Equal(t, "0", w.ask("SELECT toString(countIf(text != concat('row ', toString(id), ' ', leftPad(toString(id % 900), 40, '0')))) FROM "+w.database+".t"))
	// An idle lane writes its advance by itself, over the message without rows, too.
	require.Eventually(t, func() bool {
		p := w.position(0)
		return p.GetPending() == nil && p.GetTally().GetRows() == 1796 && p.GetCoveredSequence() == o.snapshot().GetPosition()
	}, patience, 10*time.Millisecond)
	require.Equal(t, stagev1.UnitStatus_RUNNING, o.snapshot().GetCondition())
	require.NoError(t, stop(lanes.ErrStopping))
	require.Empty(t, w.letters())
}

func TestRefusedRowsAreTakenOut(t *testing.T) {
	w := newWorld(t, 1)
	events := rowsOf(0, 1000)
	events[17].ID, events[801].ID = 2_000_017, 2_000_801
	w.send(0, events)
	o := newOwner()
	stop := w.start(o, "one", 0, w.js)
	o.waitFor(t, 1000)
	require.Equal(t, "998/998", w.table())
	require.EqualValues(t, 2, o.snapshot().GetTally().GetDeadLetters())
	letters := w.letters()
	require.Len(t, letters, 2)
	values := map[string]bool{}
	for _, l := range letters {
		require.Equal(t, "sink", l.GetStage())
		require.Equal(t, "events", l.GetTopic())
		require.Contains(t, l.GetReason(), "small", "the constraint's name")
		require.Equal(t, fmt.Sprint(events[l.GetOffset()].ID), string(l.GetKey()))
		values[string(l.GetValue())] = true
	}
	require.True(t, values[fmt.Sprintf(`{"id":2000017,"text":%q}`, events[17].Text)], "the original bytes: %v", values)
	require.True(t, values[fmt.Sprintf(`{"id":2000801,"text":%q,"n":801}`, events[801].Text)], "the original bytes: %v", values)
	require.NoError(t, stop(lanes.ErrStopping))
}

func TestRefusedRowWhoseRecordIsGone(t *testing.T) {
	w := newWorld(t, 1)
	w.send(0, []event{{ID: 3_000_000, Text: "lost"}})
	require.NoError(t, w.deleteTopic())
	o := newOwner()
	stop := w.start(o, "one", 0, w.js)
	o.waitFor(t, 1)
	letters := w.letters()
	require.Len(t, letters, 1)
	require.Contains(t, letters[0].GetReason(), "no longer in Kafka")
	require.JSONEq(t, `{"id": 3000000, "text": "lost"}`, string(letters[0].GetValue()))
	require.NoError(t, stop(lanes.ErrStopping))
}

// A block with more partitions than an insert may have goes in by parts.
func TestBlockThatIsTooMuchIsSplit(t *testing.T) {
	w := newWorld(t, 1)
	require.NoError(t, w.sql.Exec(t.Context(), "CREATE TABLE "+w.database+`.parts (id UInt64, text String, n Int32 DEFAULT 7)
		ENGINE = MergeTree ORDER BY id PARTITION BY id SETTINGS non_replicated_deduplication_window = 1000`))
	w.record.Spec.Sink.Clickhouse.Table = "parts"
	w.record.Spec.Sink.Clickhouse.Settings = map[string]string{"max_partitions_per_insert_block": "10"}
	w.send(0, rowsOf(0, 50))
	o := newOwner()
	stop := w.start(o, "one", 0, w.js)
	o.waitFor(t, 50)
	require.Equal(t, "50", w.ask("SELECT toString(count()) FROM "+w.database+".parts"))
	require.Empty(t, w.letters())
	require.NoError(t, stop(lanes.ErrStopping))
}

func TestWaitsForTheTableVisibly(t *testing.T) {
	w := newWorld(t, 1)
	require.NoError(t, w.sql.Exec(t.Context(), "RENAME TABLE "+w.database+".t TO "+w.database+".away"))
	w.send(0, rowsOf(0, 10))
	o := newOwner()
	stop := w.start(o, "one", 0, w.js)
	require.Eventually(t, func() bool {
		s := o.snapshot()
		return s.GetCondition() == stagev1.UnitStatus_WAITING && s.GetLastError() != ""
	}, patience, 10*time.Millisecond)
	require.Contains(t, o.snapshot().GetLastError(), "does not exist")
	reply := make(chan error, 1)
	o.checkpoints <- reply // a lane that waits still answers
	require.NoError(t, <-reply)
	require.NoError(t, w.sql.Exec(t.Context(), "RENAME TABLE "+w.database+".away TO "+w.database+".t"))
	o.waitFor(t, 10)
	require.Equal(t, "10/10", w.table())
	require.Eventually(t, func() bool {
		s := o.snapshot()
		return s.GetCondition() == stagev1.UnitStatus_RUNNING && s.GetLastError() == ""
	}, patience, 10*time.Millisecond)
	require.NoError(t, stop(lanes.ErrStopping))
}

func TestFailsOverBetweenAddresses(t *testing.T) {
	w := newWorld(t, 1)
	real := w.record.Spec.Sink.Clickhouse.Addr[0]
	one, two := natstest.NewProxy(t, real), natstest.NewProxy(t, real)
	w.record.Spec.Sink.Clickhouse.Addr = []string{one.Addr(), two.Addr()}
	two.Cut()
	o := newOwner()
	stop := w.start(o, "one", 0, w.js)
	w.send(0, rowsOf(0, 100))
	o.waitFor(t, 100)
	one.Cut()
	two.Mend()
	w.send(0, rowsOf(100, 100))
	o.waitFor(t, 200)
	require.Equal(t, "200/200", w.table())
	require.NoError(t, stop(lanes.ErrStopping))
}

// Two instances that both believe to own the lane: the later one has it.
func TestTakeOver(t *testing.T) {
	w := newWorld(t, 1)
	first, second := newOwner(), newOwner()
	stopFirst := w.start(first, "one", 0, w.js)
	w.send(0, rowsOf(0, 100))
	first.waitFor(t, 100)
	stopSecond := w.start(second, "two", 0, w.js)
	require.Eventually(t, func() bool { return w.position(0).GetOwner() == "two" }, patience, 5*time.Millisecond)
	for i := range 20 {
		w.send(0, rowsOf(100+i*50, 50))
	}
	second.waitFor(t, 1100)
	require.Equal(t, "1100/1100", w.table())
	require.ErrorIs(t, stopFirst(lanes.ErrStopping), errTaken)
	require.NoError(t, stopSecond(lanes.ErrStopping))
	w.balances("")
}

// Lanes without events must not pin the log.
func TestIdleLaneMovesOnAndTheLogIsPurged(t *testing.T) {
	w := newWorld(t, 2)
	w.send(1, rowsOf(0, 1)) // a single message may be half of what a log can hold
	busy := newOwner()
	stop := w.start(busy, "one", 1, w.js)
	busy.waitFor(t, 1)
	require.NoError(t, stop(lanes.ErrStopping))
	covered := w.position(1).GetCoveredSequence()
	require.Equal(t, busy.snapshot().GetPosition(), covered, "a lane that stops in good order leaves its position behind")
	log := fencedlog.Log{Pipeline: "p", Stage: fencedlog.Ingest}
	require.Eventually(t, func() bool { // its word is the last message then, which no lane reads
		said, err := fencedlog.Testimony(t.Context(), w.js, log, stageName, 1)
		return err == nil && said != nil
	}, patience, 10*time.Millisecond)
	_, end, err := fencedlog.Bounds(t.Context(), w.js, log)
	require.NoError(t, err)
	require.Greater(t, end, covered)

	idle := w.lane(newOwner(), "one", 0, w.js)
	require.NoError(t, idle.take(t.Context()))
	require.NoError(t, idle.keepHouse(t.Context()))
	require.Equal(t, end, w.position(0).GetCoveredSequence())
	// The writer's fence and what follows it stay until the writer settles.
	require.NoError(t, w.writer.Settle(t.Context(), nil))
	require.NoError(t, idle.keepHouse(t.Context()))
	stream, err := w.js.Stream(t.Context(), log.Stream())
	require.NoError(t, err)
	require.Equal(t, covered, stream.CachedInfo().State.FirstSeq)

	// Both go on from there.
	w.send(0, rowsOf(5000, 1))
	o := newOwner()
	stop = w.start(o, "two", 0, w.js)
	o.waitFor(t, 1)
	require.NoError(t, stop(lanes.ErrStopping))
}

func TestOutlivesARestartOfNATS(t *testing.T) {
	w := newWorld(t, 1)
	o := newOwner()
	stop := w.start(o, "one", 0, w.js)
	w.send(0, rowsOf(0, 100))
	o.waitFor(t, 100)
	w.nats.Stop()
	require.Eventually(t, func() bool { return o.snapshot().GetCondition() == stagev1.UnitStatus_WAITING }, patience, 10*time.Millisecond)
	w.nats.Start()
	w.send(0, rowsOf(100, 100))
	o.waitFor(t, 200)
	require.Equal(t, "200/200", w.table())
	require.Eventually(t, func() bool { return o.snapshot().GetCondition() == stagev1.UnitStatus_RUNNING }, patience, 10*time.Millisecond)
	require.NoError(t, stop(lanes.ErrStopping))
}
