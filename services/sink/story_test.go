package sink

import (
	"fmt"
	"testing"
	"time"

	"github.com/IBM/sarama"
	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/proto"

	controlv1 "sluice/gen/sluice/control/v1"
	eventv1 "sluice/gen/sluice/event/v1"
	"sluice/libs/fencedlog"
	"sluice/libs/lanes"
	"sluice/libs/receipts"
)

// story is rows that come one block after the other, stores that go back, and a table that remembers all tokens: what is in it may not keep new rows out.
type story struct {
	*world
	events []event
	o      *owner
	stop   func(error) error
	rows   int   // that are in the table
	skew   int64 // how many records besides them the topic has
}

func newStory(t *testing.T) *story {
	s := &story{world: newWorld(t, 1), events: rowsOf(0, 400)}
	s.logOnly = true
	require.NoError(t, receipts.Ensure(t.Context(), s.js, "p"))
	return s
}

func (s *story) up() {
	s.t.Helper()
	s.o = newOwner()
	s.stop = s.start(s.o, "again", 0, s.js)
}

func (s *story) down() {
	s.t.Helper()
	require.NoError(s.t, s.stop(lanes.ErrStopping))
}

// next puts events into the log in messages of so many, each of which becomes a block, and waits until they are in the table.
func (s *story) next(events, each int) {
	s.t.Helper()
	for range events / each {
		s.put(0, s.events[s.rows:s.rows+each], int64(s.rows)+s.skew)
		s.rows += each
		s.await()
	}
}

// run has a sink that writes events in blocks of ten, and stops in good order.
func (s *story) run(events int) {
	s.t.Helper()
	s.up()
	s.next(events, 10)
	s.down()
}

// copied writes ten events, and more after a copy of the store was made, which lose puts back.
func (s *story) copied(more int) (lose func(...string)) {
	s.t.Helper()
	s.run(10)
	lose = s.keep()
	s.run(more)
	return lose
}

// await waits until the table has all rows, and a receipt says so.
func (s *story) await() {
	s.t.Helper()
	want := fmt.Sprintf("%d/%d", s.rows, s.rows)
	require.Eventually(s.t, func() bool { return s.table() == want }, patience, 5*time.Millisecond, "%s: %v", want, s.o.snapshot())
	last := s.o.snapshot().GetPosition()
	require.Eventually(s.t, func() bool {
		r, err := receipts.Last(s.t.Context(), s.js, "p", 0)
		return err == nil && (r.GetLastSequence() >= last || s.o.snapshot().GetPosition() != last)
	}, patience, 5*time.Millisecond)
}

// again puts events that the log has lost into it once more, in messages of so many; the ingestor has found how far it had been.
func (s *story) again(from, each int, seen int64) {
	s.t.Helper()
	body, err := proto.Marshal(&eventv1.IngestPosition{Topic: "events", NextOffset: int64(from), SeenOffset: seen, SeenEnd: seen})
	require.NoError(s.t, err)
	require.NoError(s.t, s.writer.Settle(s.t.Context(), body))
	for n := from; n < s.rows; n += each {
		s.put(0, s.events[n:min(n+each, s.rows)], int64(n))
	}
}

func (s *story) finish() {
	s.t.Helper()
	s.await()
	s.down()
	s.balances("")
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

// forgetTokens makes the table forget what blocks it had, and the next blocks end elsewhere.
func (w *world) forgetTokens(rows uint32) {
	w.t.Helper()
	require.NoError(w.t, w.sql.Exec(w.t.Context(), "ALTER TABLE "+w.database+".t MODIFY SETTING non_replicated_deduplication_window = 0"))
	w.record.Spec.Batch.Rows = rows
}

// behindDedup makes the sink one of a pipeline with dedup.
func (s *story) behindDedup() {
	s.t.Helper()
	ingest := s.writer
	s.record.Spec.Dedup = &controlv1.Dedup{Key: []string{"id"}}
	s.stage = fencedlog.Dedup
	require.NoError(s.t, fencedlog.Ensure(s.t.Context(), s.js, s.log(), fencedlog.Limits{}))
	s.open()
	body, err := proto.Marshal(&eventv1.IngestPosition{Topic: "events", NextOffset: 70})
	require.NoError(s.t, err)
	require.NoError(s.t, ingest.Settle(s.t.Context(), body))
}

// said waits until the logs say what the receipts say.
func (s *story) said() {
	s.t.Helper()
	receipt, err := receipts.Last(s.t.Context(), s.js, "p", 0)
	require.NoError(s.t, err)
	for _, log := range []fencedlog.Log{{Pipeline: "p", Stage: fencedlog.Ingest}, s.log()} {
		require.Eventually(s.t, func() bool {
			body, err := fencedlog.Testimony(s.t.Context(), s.js, log, stageName, 0)
			var said eventv1.Receipt
			return err == nil && proto.Unmarshal(body, &said) == nil && said.GetToken() == receipt.GetToken()
		}, patience, 5*time.Millisecond)
	}
}

// commit leaves in Kafka's group how far the events had been read.
func (s *story) commit(offset int64, note string) {
	s.t.Helper()
	s.record.Spec.Source.Kafka.Group = "sluice-p"
	group, err := sarama.NewConsumerGroup([]string{s.broker.Addr()}, "sluice-p", sarama.NewConfig())
	require.NoError(s.t, err)
	require.NoError(s.t, group.Consume(s.t.Context(), []string{"events"}, reader{offset, note}))
	require.NoError(s.t, group.Close())
}

// reader is a member of a group that commits an offset and leaves.
type reader struct {
	offset int64
	note   string
}

func (r reader) Setup(session sarama.ConsumerGroupSession) error {
	session.MarkOffset("events", 0, r.offset, r.note)
	session.Commit()
	return nil
}
func (reader) Cleanup(sarama.ConsumerGroupSession) error                                 { return nil }
func (reader) ConsumeClaim(sarama.ConsumerGroupSession, sarama.ConsumerGroupClaim) error { return nil }
