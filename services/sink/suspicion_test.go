package sink

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/IBM/sarama"
	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/proto"

	controlv1 "sluice/gen/sluice/control/v1"
	eventv1 "sluice/gen/sluice/event/v1"
	stagev1 "sluice/gen/sluice/stage/v1"
	"sluice/libs/clickhouse"
	"sluice/libs/fencedlog"
	"sluice/libs/kafka"
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

// New rows come under sequences that named others before, and the table remembers those: each is in it all the same. Also when the same copy is put back twice.
func TestTokensOfAStoreThatWentBack(t *testing.T) {
	for name, all := range map[string]bool{"all of it": true, "but the receipts know": false} {
		t.Run(name, func(t *testing.T) {
			s := newStory(t)
			s.up()
			s.next(10, 10)
			s.down()
			lose := s.keep()
			for range 2 {
				s.up()
				s.next(60, 10)
				s.down()
				if all { // and the ingestor knows of it by Kafka's group
					lose(theBucket, theLog, "sluice_p_receipts")
					s.again(10, s.rows, int64(s.rows))
				} else {
					lose(theBucket, theLog)
					s.again(10, s.rows, 0)
				}
				// In one message: what comes next has the sequences of what was before.
				s.up()
				s.await()
				s.next(80, 10)
				s.down()
				require.Contains(t, s.o.snapshot().GetLastError(), "went back")
				if all {
					require.Nil(t, s.position(0).GetSuspicion(), "it is over")
				}
			}
			s.up()
			s.finish()
		})
	}
}

// The bucket goes back, and the receipts with it. What the lane has said in the ingest log tells, as long as that one has not gone back as well.
func TestTheReceiptsGoBackWithThePosition(t *testing.T) {
	for name, c := range map[string]struct {
		stage string   // whose log the sink reads
		lost  []string // besides
	}{
		"of the ingest log":               {fencedlog.Ingest, nil},
		"of the dedup log":                {fencedlog.Dedup, nil},
		"of the dedup log, which is lost": {fencedlog.Dedup, []string{"sluice_p_dedup"}},
	} {
		t.Run(name, func(t *testing.T) {
			s := newStory(t)
			if c.stage == fencedlog.Dedup {
				s.behindDedup()
			}
			s.up()
			s.next(10, 10)
			s.down()
			lose := s.keep()
			s.up()
			s.next(60, 10)
			s.said()
			s.down()
			lose(append(c.lost, theBucket, "sluice_p_receipts")...)
			s.forgetTokens(17)
			if c.lost != nil {
				for n := 10; n < s.rows; n += 7 { // as dedup puts it out again
					s.put(0, s.events[n:min(n+7, s.rows)], int64(n))
				}
			}
			s.up()
			s.await()
			s.next(20, 10)
			require.Contains(t, s.o.snapshot().GetLastError(), "the position of lane 0 went back")
			require.EqualValues(t, 60, s.o.snapshot().GetHealedRows())
			s.finish()
		})
	}
}

// The same, and then, before or after the lane has found out, the log loses its tail, too: it has less than the position says.
func TestTheLogIsLostAfterThePositionWentBack(t *testing.T) {
	for name, found := range map[string]bool{"before it was found": false, "while it was looked for": true} {
		t.Run(name, func(t *testing.T) {
			s := newStory(t)
			s.behindDedup()
			s.up()
			s.next(10, 10)
			s.down()
			loseLog := s.keep()
			s.up()
			s.next(10, 10)
			s.down()
			lose := s.keep()
			s.up()
			s.next(50, 10)
			s.said()
			s.down()
			lose(theBucket, "sluice_p_receipts")
			s.forgetTokens(17)
			if found {
				l := s.lane(newOwner(), "again", 0, s.js)
				require.NoError(t, l.take(t.Context()))
				l.inserter.Close()
				require.NotZero(t, s.position(0).GetSuspicion().GetUpTo())
			}
			loseLog("sluice_p_dedup")
			for n := 10; n < s.rows; n += 7 {
				s.put(0, s.events[n:min(n+7, s.rows)], int64(n))
			}
			s.up()
			s.await()
			s.next(20, 10)
			require.Contains(t, s.o.snapshot().GetLastError(), "lost its tail")
			s.finish()
		})
	}
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

// said waits until the ingest log says what the receipts say.
func (s *story) said() {
	s.t.Helper()
	receipt, err := receipts.Last(s.t.Context(), s.js, "p", 0)
	require.NoError(s.t, err)
	require.Eventually(s.t, func() bool {
		body, err := fencedlog.Testimony(s.t.Context(), s.js, fencedlog.Log{Pipeline: "p", Stage: fencedlog.Ingest}, stageName, 0)
		var said eventv1.Receipt
		return err == nil && proto.Unmarshal(body, &said) == nil && said.GetToken() == receipt.GetToken()
	}, patience, 5*time.Millisecond)
}

// The last block had no rows, and its receipt no token: the one before tells.
func TestTheLastBlockHadNoRows(t *testing.T) {
	s := newStory(t)
	s.up()
	s.next(10, 10)
	s.down()
	lose := s.keep()
	s.up()
	s.next(10, 10)
	s.put(0, s.events[:3], int64(s.rows), 0, 1, 2)
	s.skew = 3
	last := s.o.snapshot().GetPosition()
	require.Eventually(t, func() bool { return s.o.snapshot().GetPosition() > last }, patience, 5*time.Millisecond)
	s.down()
	lose(theBucket)
	s.forgetTokens(17)
	s.up()
	s.next(5, 5)
	require.Contains(t, s.o.snapshot().GetLastError(), "the position of lane 0 went back")
	s.finish()
}

// The log loses its tail, which heals; then the position goes back to before that: the receipts of since are of another epoch, and tell all the same.
func TestThePositionGoesBackToBeforeAHealing(t *testing.T) {
	s := newStory(t)
	s.up()
	s.next(10, 10)
	s.down()
	lose := s.keep()
	s.up()
	s.next(30, 10)
	s.down()
	lose(theLog)
	s.again(10, 7, 0)
	s.up()
	s.next(50, 5)
	s.down()
	require.Contains(t, s.o.snapshot().GetLastError(), "lost its tail")
	lose(theBucket)
	s.forgetTokens(17)
	s.up()
	s.next(20, 10)
	require.Contains(t, s.o.snapshot().GetLastError(), "the position of lane 0 went back")
	s.finish()
}

// What was suspected is still suspected after a crash, though what told of it may not be heard again.
func TestSuspicionSurvivesACrash(t *testing.T) {
	s := newStory(t)
	s.up()
	s.next(10, 10)
	s.down()
	lose := s.keep()
	s.up()
	s.next(60, 10)
	s.down()
	lose(theBucket, theLog)
	s.forgetTokens(17)
	s.up() // the receipts tell
	require.Eventually(t, func() bool { return s.position(0).GetSuspicion() != nil }, patience, 5*time.Millisecond)
	_ = s.stop(lanes.ErrLost)
	require.NoError(t, receipts.Remove(t.Context(), s.js, "p"))
	require.NoError(t, receipts.Ensure(t.Context(), s.js, "p"))
	s.again(10, 7, 0)
	s.up()
	s.await()
	s.next(20, 10)
	s.finish()
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

// The store goes back to when it was empty, and only the group's offset tells that there was more, if it is the pipeline's.
func TestOnlyTheGroupRemembers(t *testing.T) {
	var topic [16]byte
	for name, c := range map[string]struct {
		note  string
		knows bool
	}{"its own": {kafka.Note("p", topic, 60), true}, "another's": {"", false}} {
		t.Run(name, func(t *testing.T) {
			s := newStory(t)
			lose := s.keep()
			s.up()
			s.next(60, 10)
			s.down()
			s.commit(5, c.note) // it had gone back before, and was reading again
			lose(theBucket, theLog, "sluice_p_receipts")
			s.forgetTokens(17)
			for n := 0; n < s.rows; n += 20 {
				s.put(0, s.events[n:n+20], int64(n))
			}
			s.up()
			if c.knows {
				s.next(20, 10)
				require.Contains(t, s.o.snapshot().GetLastError(), "partition 0 of events had been read up to offset 59")
				s.finish()
				return
			}
			s.o.waitFor(t, 60)
			require.Empty(t, s.o.snapshot().GetLastError())
			require.Equal(t, "120/60", s.table())
		})
	}
}

// All of the store goes back, and nothing had been read since: only what the group's offsets say of the sink tells what it had written meanwhile.
func TestOnlyTheGroupRemembersWhatWasWritten(t *testing.T) {
	var topic [16]byte
	s := newStory(t)
	s.up()
	s.next(10, 10)
	s.down()
	for range 3 { // in the log, and not in the table
		s.put(0, s.events[s.rows:s.rows+10], int64(s.rows))
		s.rows += 10
	}
	lose := s.keep()
	s.up()
	s.await()
	s.down()
	p := s.position(0)
	s.commit(40, kafka.Note("p", topic, 40, kafka.Word{Lane: 1, Sequence: 1 << 40, TimeNs: 1},
		kafka.Word{Lane: 0, Epoch: p.GetEpoch(), Sequence: p.GetCoveredSequence(), TimeNs: p.GetCoveredTimeNs()}))
	lose(theBucket, theLog, "sluice_p_receipts")
	body, err := proto.Marshal(&eventv1.IngestPosition{Topic: "events", NextOffset: 40})
	require.NoError(t, err)
	require.NoError(t, s.writer.Settle(t.Context(), body))
	s.forgetTokens(17)
	s.up()
	require.Eventually(t, func() bool { return s.o.snapshot().GetHealedRows() == 30 }, patience, 5*time.Millisecond)
	require.Contains(t, s.o.snapshot().GetLastError(), "the position of lane 0 went back")
	s.next(20, 10)
	s.finish()
}

// Kafka is down when the lane is taken. What the ingestor finds later is heard before anything is sent.
func TestKafkaWasDownWhenTheLaneWasTaken(t *testing.T) {
	s := newStory(t)
	s.up()
	s.next(10, 10)
	s.down()
	lose := s.keep()
	s.up()
	s.next(60, 10)
	s.down()
	lose(theBucket, theLog, "sluice_p_receipts")
	s.forgetTokens(17)
	s.broker.Close()
	o := newOwner()
	ended := make(chan struct{})
	l := s.lane(o, "again", 0, s.js)
	stop := startThen(t, l, func() { close(ended) })
	require.Eventually(t, func() bool {
		return o.snapshot().GetCondition() == stagev1.UnitStatus_RUNNING && o.snapshot().GetPosition() > 0
	}, patience, 5*time.Millisecond)
	s.again(10, 7, int64(s.rows))
	select {
	case <-ended:
	case <-time.After(patience):
		require.Fail(t, "it goes on")
	}
	require.ErrorContains(t, stop(lanes.ErrStopping), "taking the lane anew")
	s.up()
	s.next(20, 10)
	s.finish()
}

// unheard is a table whose answers get lost some times.
type unheard struct {
	inserter
	times int
}

func (u *unheard) Insert(ctx context.Context, i clickhouse.Insert) error {
	err := u.inserter.Insert(ctx, i)
	if err == nil && u.times > 0 {
		u.times--
		return errFault
	}
	return err
}

// Of a block that is half in the table the other half is sent, and nobody hears the answer. The table, which is asked anyway, is asked again, and need not remember the token.
func TestAnAnswerIsLostWhileTheLaneIsSuspicious(t *testing.T) {
	s := newStory(t)
	s.up()
	s.next(10, 10)
	s.down()
	lose := s.keep()
	s.up()
	s.next(50, 10)
	s.down()
	lose(theBucket, theLog, "sluice_p_receipts")
	s.forgetTokens(1000)
	s.rows = 70
	s.again(10, 60, 60)
	s.o = newOwner()
	l := s.lane(s.o, "again", 0, s.js)
	table := &unheard{inserter: l.inserter, times: 1}
	l.inserter, l.pace = table, pace{time.Millisecond, 10 * time.Millisecond}
	s.stop = start(t, l)
	s.o.waitFor(t, 70)
	require.Equal(t, "70/70", s.table())
	require.Zero(t, table.times)
	s.next(10, 10)
	require.EqualValues(t, 50, s.o.snapshot().GetHealedRows(), "what was there before")
	require.Nil(t, s.position(0).GetSuspicion(), "it is over")
	s.finish()
}
