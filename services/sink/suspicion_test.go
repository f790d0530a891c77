package sink

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/proto"

	eventv1 "sluice/gen/sluice/event/v1"
	"sluice/libs/lanes"
	"sluice/libs/receipts"
)

// forgetTokens makes the table forget what blocks it had, and the next blocks end elsewhere.
func (w *world) forgetTokens(rows uint32) {
	w.t.Helper()
	require.NoError(w.t, w.sql.Exec(w.t.Context(), "ALTER TABLE "+w.database+".t MODIFY SETTING non_replicated_deduplication_window = 0"))
	w.record.Spec.Batch.Rows = rows
}

// The bucket goes back while no sink runs. The receipts know better: what they say is in the table is not sent again, though the table has
// forgotten its tokens.
func TestPositionGoesBackWhileTheSinkIsDown(t *testing.T) {
	w := newWorld(t, 1)
	w.logOnly = true
	require.NoError(t, receipts.Ensure(t.Context(), w.js, "p"))
	events := rowsOf(0, 100)
	o := newOwner()
	stop := w.start(o, "one", 0, w.js)
	w.put(0, events[:10], 0)
	o.waitFor(t, 10)
	require.NoError(t, stop(lanes.ErrStopping))
	lose := w.keep()
	o = newOwner()
	stop = w.start(o, "two", 0, w.js)
	for from := 10; from < 60; from += 10 {
		w.put(0, events[from:from+10], int64(from))
		o.waitFor(t, from+10)
	}
	last := o.snapshot().GetPosition()
	require.Eventually(t, func() bool {
		r, err := receipts.Last(t.Context(), w.js, "p", 0)
		return err == nil && r.GetLastSequence() == last
	}, patience, 5*time.Millisecond)
	require.NoError(t, stop(lanes.ErrStopping))
	lose(theBucket)
	w.forgetTokens(17)
	w.put(0, events[60:], 60)
	o = newOwner()
	stop = w.start(o, "three", 0, w.js)
	o.waitFor(t, 100)
	require.NoError(t, stop(lanes.ErrStopping))
	require.Equal(t, "100/100", w.table())
	require.Contains(t, o.snapshot().GetLastError(), "the position of lane 0 went back")
	require.EqualValues(t, 50, o.snapshot().GetHealedRows())
	w.balances("")
}

// All of the store goes back, and only Kafka remembers how far it had been: the ingestor has written that down, and the table is asked.
func TestTheWholeStoreGoesBack(t *testing.T) {
	w := newWorld(t, 1)
	w.logOnly = true
	events := rowsOf(0, 100)
	o := newOwner()
	stop := w.start(o, "one", 0, w.js)
	w.put(0, events[:10], 0)
	o.waitFor(t, 10)
	require.NoError(t, stop(lanes.ErrStopping))
	lose := w.keep()
	o = newOwner()
	stop = w.start(o, "two", 0, w.js)
	for from := 10; from < 60; from += 10 {
		w.put(0, events[from:from+10], int64(from))
		o.waitFor(t, from+10)
	}
	require.NoError(t, stop(lanes.ErrStopping))
	lose(theBucket, theLog)
	w.forgetTokens(17)
	body, err := proto.Marshal(&eventv1.IngestPosition{Topic: "events", TopicId: w.topicID(), NextOffset: 10, SeenOffset: 55})
	require.NoError(t, err)
	require.NoError(t, w.writer.Settle(t.Context(), body))
	w.refill(events[10:], 10)
	o = newOwner()
	stop = w.start(o, "three", 0, w.js)
	o.waitFor(t, 100)
	require.NoError(t, stop(lanes.ErrStopping))
	require.Equal(t, "100/100", w.table())
	require.Contains(t, o.snapshot().GetLastError(), "the store went back: partition 0 of events had been read up to offset 54")
	require.EqualValues(t, 50, o.snapshot().GetHealedRows())
	w.balances("")
}

// topicID is that of the messages in the log.
func (w *world) topicID() []byte {
	w.t.Helper()
	for at := range w.position(0).GetTaken() {
		return w.position(0).GetTaken()[at].GetTopicId()
	}
	require.Fail(w.t, "nothing was taken")
	return nil
}
