package sink

import (
	"context"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/proto"

	eventv1 "sluice/gen/sluice/event/v1"
	stagev1 "sluice/gen/sluice/stage/v1"
	"sluice/libs/clickhouse"
	"sluice/libs/fencedlog"
	"sluice/libs/kafka"
	"sluice/libs/lanes"
	"sluice/libs/receipts"
)

// The bucket goes back while no sink runs. The receipts know better: what they say is in the table is not sent again, though the table has
// forgotten its tokens.
func TestPositionGoesBackWhileTheSinkIsDown(t *testing.T) {
	s := newStory(t)
	lose := s.copied(50)
	lose(theBucket)
	s.forgetTokens(17)
	s.put(0, s.events[60:100], 60)
	s.rows = 100
	s.up()
	s.await()
	require.Contains(t, s.o.snapshot().GetLastError(), "the position of lane 0 went back")
	require.EqualValues(t, 50, s.o.snapshot().GetHealedRows())
	s.finish()
}

// All of the store goes back, and only Kafka remembers how far it had been: the ingestor has written that down, and the table is asked.
func TestTheWholeStoreGoesBack(t *testing.T) {
	s := newStory(t)
	lose := s.copied(50)
	topic := s.topicID()
	lose(theBucket, theLog, theReceipts)
	s.forgetTokens(17)
	body, err := proto.Marshal(&eventv1.IngestPosition{Topic: "events", TopicId: topic, NextOffset: 10, SeenOffset: 55})
	require.NoError(t, err)
	require.NoError(t, s.writer.Settle(t.Context(), body))
	s.rows = 100
	s.refill(s.events[10:s.rows], 10)
	s.up()
	s.await()
	require.Contains(t, s.o.snapshot().GetLastError(), "the store went back: partition 0 of events had been read up to offset 54")
	require.EqualValues(t, 50, s.o.snapshot().GetHealedRows())
	s.finish()
}

// New rows come under sequences that named others before, and the table remembers those: each is in it all the same. Also when the same copy is put back twice.
func TestTokensOfAStoreThatWentBack(t *testing.T) {
	for name, all := range map[string]bool{"all of it": true, "but the receipts know": false} {
		t.Run(name, func(t *testing.T) {
			s := newStory(t)
			s.run(10)
			lose := s.keep()
			for range 2 {
				s.run(60)
				if all { // and the ingestor knows of it by Kafka's group
					lose(theBucket, theLog, theReceipts)
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

// The bucket goes back, and the receipts with it. What the lane has said in the logs tells, as long as one of them has not gone back as well.
func TestTheReceiptsGoBackWithThePosition(t *testing.T) {
	for name, c := range map[string]struct {
		stage string   // whose log the sink reads
		lost  []string // besides
	}{
		"of the ingest log":               {fencedlog.Ingest, nil},
		"of the dedup log":                {fencedlog.Dedup, nil},
		"of the dedup log, which is lost": {fencedlog.Dedup, []string{theDedup}},
		"and the ingest log is lost":      {fencedlog.Dedup, []string{theLog}},
	} {
		t.Run(name, func(t *testing.T) {
			s := newStory(t)
			if c.stage == fencedlog.Dedup {
				s.behindDedup()
			}
			lose := s.copied(60)
			s.said()
			lose(append(c.lost, theBucket, theReceipts)...)
			s.forgetTokens(17)
			if slices.Contains(c.lost, theDedup) {
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
			s.run(10)
			loseLog := s.keep()
			lose := s.copied(50)
			s.said()
			lose(theBucket, theReceipts)
			s.forgetTokens(17)
			if found {
				l := s.lane(newOwner(), "again", 0, s.js)
				require.NoError(t, l.take(t.Context()))
				l.inserter.Close()
				require.NotZero(t, s.position(0).GetSuspicion().GetUpTo())
			}
			loseLog(theDedup)
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

// The last block had no rows, and its receipt no token: the one before tells.
func TestTheLastBlockHadNoRows(t *testing.T) {
	s := newStory(t)
	s.run(10)
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
	lose := s.copied(30)
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
	lose := s.copied(60)
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
			s.run(60)
			s.commit(5, c.note) // it had gone back before, and was reading again
			lose(theBucket, theLog, theReceipts)
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
	s.run(10)
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
	lose(theBucket, theLog, theReceipts)
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
	lose := s.copied(60)
	lose(theBucket, theLog, theReceipts)
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
	lose := s.copied(50)
	lose(theBucket, theLog, theReceipts)
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
