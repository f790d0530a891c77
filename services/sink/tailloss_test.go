package sink

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	stagev1 "sluice/gen/sluice/stage/v1"
	"sluice/libs/checkpoint"
	"sluice/libs/fencedlog"
	"sluice/libs/lanes"
)

const (
	theLog      = "sluice_p_ingest"
	theDedup    = "sluice_p_dedup"
	theJoin     = "sluice_p_join"
	theReceipts = "sluice_p_receipts"
	theBucket   = "KV_sluice_p_state"
)

// keep copies the server's store as it is now; lose puts a stream of that copy back, and the writer opens anew as after a
// power loss.
func (w *world) keep() (lose func(streams ...string)) {
	w.t.Helper()
	putBack := w.nats.Copy(w.js)
	w.open()
	return func(streams ...string) {
		w.t.Helper()
		putBack(streams...)
		w.open()
	}
}

// refill puts events into the log again as an ingestor does that reads Kafka once more: the same records in
// messages of another size, and what is new behind them in the same messages.
func (w *world) refill(events []event, first int64) {
	w.t.Helper()
	for n := 0; n < len(events); n += 7 {
		w.put(0, events[n:min(n+7, len(events))], first+int64(n))
	}
}

// The log loses what the sink has in the table, while the sink runs, or while it is away, with and without a mark before the loss. It comes
// again from Kafka, in other messages, which have the old sequences and hold new rows, too.
func TestTailLossOfTheLog(t *testing.T) {
	for _, c := range []struct {
		name    string
		running bool
		before  int // rows that are not lost, at least one
	}{{"while it runs", true, 10}, {"while it is away", false, 10}, {"nearly all of it", false, 1}} {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld(t, 1)
			w.logOnly = true
			events := rowsOf(0, 100)
			o := newOwner()
			done := make(chan struct{})
			stop := startThen(t, w.lane(o, "one", 0, w.js), func() { close(done) })
			w.put(0, events[:c.before], 0)
			o.waitFor(t, c.before)
			if !c.running {
				require.NoError(t, stop(lanes.ErrStopping))
			}
			lose := w.keep()
			if !c.running {
				stop = w.start(o, "two", 0, w.js)
			}
			for from := c.before; from < 60; from += 10 {
				w.put(0, events[from:from+10], int64(from))
				o.waitFor(t, from+10)
			}
			covered := o.snapshot().GetPosition()
			if !c.running {
				require.NoError(t, stop(lanes.ErrStopping))
				require.Equal(t, covered, w.position(0).GetCoveredSequence())
			} else {
				require.Eventually(t, func() bool { return w.position(0).GetCoveredSequence() == covered }, patience, 5*time.Millisecond)
			}
			lost := int(o.settled()) - c.before
			lose(theLog)
			w.refill(events[c.before:], int64(c.before))
			require.NoError(t, w.writer.Settle(t.Context(), nil))
			if c.running {
				// It finds out by itself, and its owner starts it again.
				require.Eventually(t, func() bool { return closed(done) }, patience, 5*time.Millisecond)
				require.ErrorIs(t, stop(nil), fencedlog.ErrTailLost)
			}
			o = newOwner()
			stop = w.start(o, "three", 0, w.js)
			o.waitFor(t, 100)
			require.Equal(t, "100/100", w.table())
			s := o.snapshot()
			require.Equal(t, stagev1.UnitStatus_RUNNING, s.GetCondition())
			require.EqualValues(t, lost, s.GetHealedRows())
			require.Contains(t, s.GetLastError(), "lost its tail")
			require.Contains(t, s.GetLastError(), fmt.Sprintf("up to sequence %d", covered))
			require.NotNil(t, s.GetLastErrorTime())
			require.NoError(t, stop(lanes.ErrStopping))
			w.balances(c.name)
			require.EqualValues(t, 1, w.position(0).GetEpoch())
			require.EqualValues(t, 2, w.position(0).GetFormat(), "earlier versions must not go on with it")

			// It stays in the status; what comes is ordinary.
			w.put(0, rowsOf(100, 10), 100)
			o = newOwner()
			stop = w.start(o, "four", 0, w.js)
			o.waitFor(t, 110)
			require.Contains(t, o.snapshot().GetLastError(), "lost its tail")
			require.NoError(t, stop(lanes.ErrStopping))
			require.Equal(t, "110/110", w.table())
			w.balances(c.name)
		})
	}
}

// A crash after each durable step of a block, in which rows are refused, and then the log has lost the block's messages:
// whether it is in the table nobody knows. Its rows come again in other messages, and each is there once.
func TestTailLossAfterEachStep(t *testing.T) {
	w := newWorld(t, 1)
	var healed int
	sent := 0
	for at := int64(0); ; at++ {
		lose := w.keep()
		events := rowsOf(sent, faultyRows+3)
		events[5].ID += 1_000_000
		first := w.produce(events)
		w.put(0, events[:faultyRows], first)
		f := &faults{JetStream: w.js, at: at, mode: crashed}
		f.what.Store(new(string))
		w.runFaulty(f, uint64(sent+faultyRows))
		name := fmt.Sprintf("step %d: %s", at, *f.what.Load())
		lose(theLog)
		w.put(0, events[:2], first)
		w.put(0, events[2:], first+2) // three rows are new
		sent += len(events)
		heir := newOwner()
		stop := w.start(heir, "heir", 0, w.js)
		heir.waitFor(t, sent)
		require.NoError(t, stop(lanes.ErrStopping), name)
		w.eachRowOnce(sent, name)
		healed = int(heir.snapshot().GetHealedRows())
		if !f.hit.Load() {
			break
		}
	}
	require.Positive(t, healed)
	require.Greater(t, int(w.position(0).GetEpoch()), 10)
}

// The bucket loses its tail while the sink runs, which knows better: its position is written anew.
func TestTailLossOfThePosition(t *testing.T) {
	w := newWorld(t, 1)
	w.logOnly = true
	o := newOwner()
	stop := w.start(o, "one", 0, w.js)
	events := rowsOf(0, 100)
	w.put(0, events[:10], 0)
	o.waitFor(t, 10)
	require.Eventually(t, func() bool { return w.position(0).GetPending() == nil }, patience, 5*time.Millisecond)
	lose := w.keep()
	for from := 10; from < 60; from += 10 {
		w.put(0, events[from:from+10], int64(from))
		o.waitFor(t, from+10)
	}
	require.Eventually(t, func() bool { return w.position(0).GetTally().GetRows() == 60 }, patience, 5*time.Millisecond)
	lose(theBucket)
	require.EqualValues(t, 10, w.position(0).GetTally().GetRows())
	w.put(0, events[60:], 60)
	o.waitFor(t, 100)
	require.Eventually(t, func() bool { return w.position(0).GetTally().GetRows() == 100 }, patience, 5*time.Millisecond)
	require.Eventually(t, func() bool {
		s := o.snapshot()
		return s.GetCondition() == stagev1.UnitStatus_RUNNING && s.GetLastError() != ""
	}, patience, 5*time.Millisecond)
	require.Contains(t, o.snapshot().GetLastError(), "sluice_p_state lost its tail")
	require.NoError(t, stop(lanes.ErrStopping))
	require.Equal(t, "100/100", w.table())
	w.balances("")
	// An instance that has the lane since then, or another pipeline of the name, is not written over.
	l := w.lane(newOwner(), "one", 0, w.js)
	require.NoError(t, l.take(t.Context()))
	other := w.position(0)
	other.Session, other.PipelineUid = "other", "u2"
	kv, err := w.js.KeyValue(t.Context(), checkpoint.Bucket("p"))
	require.NoError(t, err)
	_, err = kv.Put(t.Context(), positionKey(0), marshal(t, other))
	require.NoError(t, err)
	l.pos.revision += 100
	l.covered++
	require.ErrorIs(t, l.write(t.Context(), nil), errTaken)
}

// A lane that has not found out yet keeps the log from being purged: what it has covered are other messages now.
func TestNoPurgeUntilAllLanesHaveFoundOut(t *testing.T) {
	w := newWorld(t, 2)
	w.logOnly = true
	lose := w.keep()
	events := rowsOf(0, 100)
	for i := range 2 {
		w.put(i, events[i*30:i*30+30], int64(i*30))
		o := newOwner()
		stop := w.start(o, "one", i, w.js)
		o.waitFor(t, 30)
		require.NoError(t, stop(lanes.ErrStopping))
	}
	lose(theLog)
	for i := range 12 { // far beyond what was covered
		w.put(i%2, events[i/2*5+i%2*30:i/2*5+i%2*30+5], int64(i/2*5+i%2*30))
	}
	w.put(1, events[60:], 60)
	require.NoError(t, w.writer.Settle(t.Context(), nil))
	first := w.lane(newOwner(), "one", 0, w.js)
	require.NoError(t, first.take(t.Context()))
	require.NoError(t, first.keepHouse(t.Context()))
	stream, err := w.js.Stream(t.Context(), theLog)
	require.NoError(t, err)
	require.EqualValues(t, 1, stream.CachedInfo().State.FirstSeq)
	for i := range 2 {
		o := newOwner()
		stop := w.start(o, "two", i, w.js)
		o.waitFor(t, 30+i*40)
		require.NoError(t, stop(lanes.ErrStopping))
	}
	require.Equal(t, "100/100", w.table())
	w.balances("")
	require.NoError(t, first.verify(t.Context()))
}

// A lane that an earlier version has begun does not know which records it has taken.
func TestTailLossIsNotPassedOver(t *testing.T) {
	w := newWorld(t, 1)
	w.logOnly = true
	w.put(0, rowsOf(0, 10), 0)
	o := newOwner()
	stop := w.start(o, "one", 0, w.js)
	o.waitFor(t, 10)
	require.NoError(t, stop(lanes.ErrStopping))
	p := w.position(0)
	p.Marks, p.Taken = nil, nil
	kv, err := w.js.KeyValue(t.Context(), checkpoint.Bucket("p"))
	require.NoError(t, err)
	_, err = kv.Put(t.Context(), positionKey(0), marshal(t, p))
	require.NoError(t, err)
	log := fencedlog.Log{Pipeline: "p", Stage: fencedlog.Ingest}
	require.NoError(t, fencedlog.Remove(t.Context(), w.js, log))
	require.NoError(t, fencedlog.Ensure(t.Context(), w.js, log, fencedlog.Limits{}))
	require.ErrorIs(t, w.lane(newOwner(), "two", 0, w.js).run(t.Context()), fencedlog.ErrTailLost)
}
