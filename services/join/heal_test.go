package join

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	controlv1 "sluice/gen/sluice/control/v1"
	"sluice/libs/batch"
	"sluice/libs/lanes"
)

func lookup(j *controlv1.Join) {
	j.Kind, j.Window = controlv1.Join_LOOKUP, durationpb.New(60*time.Second)
}

// TestHealsATailLoss: an earlier copy of each stream, and of several, is put back; at the end the table is what Kafka says.
func TestHealsATailLoss(t *testing.T) {
	kinds := map[string]func(*controlv1.Join){
		"interval": nil, "lookup": lookup, "disk": func(j *controlv1.Join) { j.Memory = 1 << 10 },
	}
	for kind, change := range kinds {
		for name, lost := range map[string][]string{
			"input": {ingestStream}, "output": {joinStream}, "state": {stateStream}, "input and state": {ingestStream, stateStream},
			"output and state": {joinStream, stateStream},
		} {
			for seed := range uint64(2) {
				t.Run(fmt.Sprint(kind, "/", name, "/", seed), func(t *testing.T) { healing(t, seed, lost, change) })
			}
		}
	}
}

func healing(t *testing.T, seed uint64, lost []string, change func(*controlv1.Join)) {
	s := newStory(t, seed, change)
	s.produce(60)
	s.ingest()
	s.fold(lanes.ErrStopping)
	s.drain()
	s.produce(40)
	s.ingest()
	if seed%2 == 0 {
		s.fold(lanes.ErrLost)
		s.drain()
	}
	putBack := s.nats.Copy(s.js)
	// What comes now is lost: some of it in checkpoints, some only put out, some of that in the table.
	for range 1 + s.r.IntN(3) {
		s.produce(1 + s.r.IntN(60))
		s.ingest()
		if s.r.IntN(4) > 0 {
			s.fold([]error{lanes.ErrStopping, lanes.ErrLost}[s.r.IntN(2)])
		}
		if s.r.IntN(2) == 0 {
			s.drain()
		}
	}
	putBack(lost...)
	if slices.Contains(lost, stateStream) {
		s.storeSink() // that the sink loses its own position is another matter
	}
	// Kafka has more by the time that all is back.
	s.produce(s.r.IntN(80))
	s.ingest()
	for range s.r.IntN(3) {
		s.crash()
		if s.r.IntN(3) == 0 && slices.Contains(lost, ingestStream) && !slices.Contains(lost, stateStream) {
			putBack(ingestStream) // once more, in the middle of making up for it
			s.produce(s.r.IntN(20))
			s.ingest()
		}
	}
	status := s.fold([]error{lanes.ErrStopping, lanes.ErrLost}[s.r.IntN(2)])
	t.Logf("healed %d rows: %s", status.HealedRows, status.LastError)
	s.drain()
	s.produce(30)
	s.end()
	s.ingest()
	again := s.fold(lanes.ErrStopping)
	require.GreaterOrEqual(t, again.HealedRows, status.HealedRows, "it keeps saying so")
	s.drain()
	require.False(t, s.looks, "what the sink has is known")
	s.checkTable()
	var rows uint64
	for _, n := range s.table {
		rows += uint64(n)
	}
	require.Equal(t, rows, again.GetTally().GetRows())
	require.Equal(t, again.GetTally().GetMatched()+again.GetTally().GetUnmatched(), s.lefts())
}

// lefts counts the left rows in the table.
func (s *story) lefts() uint64 {
	lefts := map[batch.Origin]bool{}
	for o := range s.table {
		lefts[batch.Origin{LeftPartition: o.LeftPartition, LeftOffset: o.LeftOffset}] = true
	}
	return uint64(len(lefts))
}

// TestHealsALateRow: what was late stays so, once, though in the new order it would not have been; what was not stays taken, though it would have been.
func TestHealsALateRow(t *testing.T) {
	s := newStory(t, 1, nil)
	put := func(source string, ms int64) {
		at := writerOf(source, 0)
		s.kafka[at] = append(s.kafka[at], arrived{"k", ms})
		s.ingest()
	}
	for _, source := range sides { // the second partitions are far ahead
		at := writerOf(source, 1)
		s.kafka[at] = append(s.kafka[at], arrived{"ahead", 900_000})
	}
	s.ingest()
	put("orders", 100_000)
	put("users", 130_000)
	s.fold(lanes.ErrStopping)
	s.drain()
	putBack := s.nats.Copy(s.js)
	put("orders", 120_000)
	put("orders", 200_000)
	put("users", 201_000)  // a pair; the watermark is 198 s: 100 s and 120 s have met 130 s or nobody
	put("users", 122_000)  // late
	put("orders", 197_000) // late
	o := newOwner()
	stop := s.running(o, s.js, time.Hour)
	require.Eventually(t, func() bool { return len(s.letters()) == 2 }, 2*time.Minute, 10*time.Millisecond)
	require.NoError(t, stop(lanes.ErrLost))
	s.drain()
	letters := len(s.letters())
	before := maps.Clone(s.table)
	require.Len(t, before, 4)
	putBack(ingestStream)
	s.together = true     // in one batch each: the users first
	put("users", 121_000) // new, and late as well: it is behind what was put out
	status := s.fold(lanes.ErrStopping)
	require.Contains(t, status.GetLastError(), "lost its tail")
	s.drain()
	require.Equal(t, before, s.table)
	require.Len(t, s.letters(), letters+1)
	require.EqualValues(t, 3, status.GetTally().GetLate())
	require.EqualValues(t, 3, status.GetTally().GetDeadLetters())
	require.EqualValues(t, 4, status.GetTally().GetRows())

	// And now the dead-letter stream goes back: the letters are made anew as they were, before and behind the last checkpoint.
	want := s.letters()
	putLaterBack := s.nats.Copy(s.js)
	putBack(lettersStream)
	require.Empty(t, s.letters())
	status = s.fold(lanes.ErrStopping)
	require.Contains(t, status.GetLastError(), "3 dead letters up to that of")
	require.Contains(t, status.GetLastError(), "3 were made anew")
	put("users", 121_000) // late
	o = newOwner()
	stop = s.running(o, s.js, time.Hour)
	require.Eventually(t, func() bool { return len(s.letters()) == 4 }, 30*time.Second, 10*time.Millisecond)
	require.NoError(t, stop(lanes.ErrLost))
	got := s.letters()
	for i := range want {
		require.True(t, proto.Equal(want[i], got[i]), "%v, was %v", got[i], want[i])
	}
	putLaterBack(lettersStream)
	require.EqualValues(t, 4, s.fold(lanes.ErrStopping).GetTally().GetLate())
	require.Len(t, s.letters(), 4, "the replay makes it")
}

// TestBothLogsLost: what was put out can only be told if the next stage has not gone beyond it. Else it is put out again, and the next stage finds out before it takes any of it
// for new.
func TestBothLogsLost(t *testing.T) {
	for name, c := range map[string]struct{ had, saved, again bool }{
		"the sink had none of it": {false, true, false}, "all of it is in a checkpoint": {true, true, false}, "only the sink had it": {true, false, true},
	} {
		t.Run(name, func(t *testing.T) {
			s := newStory(t, 4, nil)
			s.produce(100)
			s.ingest()
			s.fold(lanes.ErrStopping)
			s.drain()
			putBack := s.nats.Copy(s.js)
			s.produce(100)
			s.ingest()
			s.fold(map[bool]error{true: lanes.ErrStopping, false: lanes.ErrLost}[c.saved])
			if c.had {
				s.drain()
			}
			putBack(ingestStream, joinStream)
			s.ingest()
			status := s.fold(lanes.ErrStopping)
			require.Contains(t, status.GetLastError(), "lost its tail")
			require.Equal(t, c.again, strings.Contains(status.GetLastError(), "stage sink has that"), status.GetLastError())
			s.drain()
			require.Equal(t, c.again, s.looks)
			s.end()
			s.ingest()
			s.fold(lanes.ErrStopping)
			s.drain()
			s.checkTable()
		})
	}
}

// TestBothLogsLostWithLateRows: rows that were refused are not taken when what was put out after them is lost, and have one letter.
func TestBothLogsLostWithLateRows(t *testing.T) {
	s := newStory(t, 1, nil)
	put := func(source string, ms int64) {
		at := writerOf(source, 0)
		s.kafka[at] = append(s.kafka[at], arrived{"k", ms})
		s.ingest()
	}
	for _, source := range sides { // the second partitions are far ahead
		at := writerOf(source, 1)
		s.kafka[at] = append(s.kafka[at], arrived{"ahead", 900_000})
	}
	s.ingest()
	put("orders", 100_000)
	s.fold(lanes.ErrStopping)
	s.drain()
	putBack := s.nats.Copy(s.js)
	put("orders", 120_000)
	put("orders", 200_000)
	put("users", 201_000)  // a pair; the watermark is 198 s: 100 s and 120 s have met nobody
	put("users", 122_000)  // late
	put("orders", 190_000) // late
	put("orders", 202_000) // another pair
	o := newOwner()
	stop := s.running(o, s.js, time.Hour)
	require.Eventually(t, func() bool { return o.snapshot().GetPosition() >= s.lastIn && len(s.letters()) == 2 }, 2*time.Minute, 10*time.Millisecond)
	require.NoError(t, stop(lanes.ErrLost))
	s.drain()
	letters, before := s.letters(), maps.Clone(s.table)
	require.Len(t, before, 5)
	putBack(ingestStream, joinStream)
	s.together = true // in one batch each: the users first
	s.ingest()
	status := s.fold(lanes.ErrStopping)
	s.drain()
	require.True(t, s.looks)
	require.Equal(t, before, s.table)
	require.Len(t, s.letters(), len(letters))
	require.EqualValues(t, 2, status.GetTally().GetLate())
	require.EqualValues(t, 2, status.GetTally().GetDeadLetters())
	require.EqualValues(t, 5, status.GetTally().GetRows())
}

// TestHealingBothLogsIsCutOff: after the fence that it takes, and after that which says that it has healed, before the checkpoint that says so. What is in a later checkpoint than the one that the
// lane goes back to, and not with the sink, is put out again all the same.
func TestHealingBothLogsIsCutOff(t *testing.T) {
	for at := 1; at <= 2; at++ {
		s := newStory(t, 7, nil)
		s.produce(100)
		s.ingest()
		s.fold(lanes.ErrStopping)
		s.drain()
		putBack := s.nats.Copy(s.js)
		s.produce(60)
		s.ingest()
		s.fold(lanes.ErrStopping)
		s.drain()
		s.produce(60)
		s.ingest()
		s.fold(lanes.ErrStopping) // a checkpoint of more than the sink has
		putBack(ingestStream, joinStream)
		s.ingest()
		ctx, cancel := context.WithCancelCause(t.Context())
		c := &crasher{JetStream: s.js, subject: "sluice.p.join.fence.0", at: at, cancel: cancel}
		stop := s.runningIn(ctx, cancel, newOwner(), c, time.Hour)
		<-ctx.Done()
		_ = stop(lanes.ErrLost)
		s.fold(lanes.ErrStopping)
		s.drain()
		s.end()
		s.ingest()
		s.fold(lanes.ErrStopping)
		s.drain()
		s.checkTable()
	}
}

// TestTailLossOfWhatKafkaNoLongerHas: the lane does not wait for it for ever; what it had put out stays, once.
func TestTailLossOfWhatKafkaNoLongerHas(t *testing.T) {
	s := newStory(t, 6, nil)
	s.produce(60)
	s.ingest()
	s.fold(lanes.ErrStopping)
	s.drain()
	putBack := s.nats.Copy(s.js)
	s.produce(60)
	s.ingest()
	s.fold(lanes.ErrLost)
	s.drain()
	before := maps.Clone(s.table)
	putBack(ingestStream)
	for at, records := range s.kafka {
		s.lost[at] = len(records)
	}
	s.end()
	s.ingest()
	s.fold(lanes.ErrStopping)
	s.drain()
	for o, n := range s.table {
		require.Equal(t, 1, n, "row %+v", o)
	}
	for o := range before {
		require.Equal(t, 1, s.table[o], "row %+v", o)
	}
}

// TestHealsOnlyWhatItCanTell: outputs of a version that did not note what it had taken.
func TestHealsOnlyWhatItCanTell(t *testing.T) {
	c := &core{joiner: nil}
	c.past = &recalled{}
	require.ErrorContains(t, c.Recall(&batch.View{}), "an earlier version")
}

// TestHealsBothLogs: both logs lose their tails, and the sink, or some of it, has what they lost. It finds that by what the messages say of each other, whatever has crashed when, and whether
// the join knows of it or not; the table is what Kafka says.
func TestHealsBothLogs(t *testing.T) {
	for kind, change := range map[string]func(*controlv1.Join){"interval": nil, "lookup": lookup} {
		for seed := range uint64(10) {
			t.Run(fmt.Sprint(kind, "/", seed), func(t *testing.T) { healingBoth(t, seed, change) })
		}
	}
}

func healingBoth(t *testing.T, seed uint64, change func(*controlv1.Join)) {
	s := newStory(t, seed, change)
	s.produce(60)
	s.ingest()
	s.fold(lanes.ErrStopping)
	s.drain()
	s.produce(40)
	s.ingest()
	s.fold([]error{lanes.ErrStopping, lanes.ErrLost}[seed%2])
	s.drain()
	putBack := s.nats.Copy(s.js)
	for range 1 + s.r.IntN(3) {
		s.produce(20 + s.r.IntN(60))
		s.ingest()
		s.fold([]error{lanes.ErrStopping, lanes.ErrLost}[s.r.IntN(2)])
		if s.r.IntN(3) > 0 {
			s.drain()
		}
	}
	s.drain()
	lost := s.sink.GetPositions()["0"]
	putBack(ingestStream, joinStream)
	s.storeSink()
	s.produce(s.r.IntN(80))
	s.ingest()
	for range s.r.IntN(4) {
		s.crash()
		if s.r.IntN(2) == 0 {
			s.drain()
		}
	}
	status := s.fold([]error{lanes.ErrStopping, lanes.ErrLost}[s.r.IntN(2)])
	s.drain()
	t.Logf("the sink had %s, looks %v; %s", lost, s.looks, status.LastError)
	s.produce(30)
	s.end()
	s.ingest()
	status = s.fold(lanes.ErrStopping)
	s.drain()
	s.checkTable()
	var rows uint64
	for _, n := range s.table {
		rows += uint64(n)
	}
	require.Equal(t, rows, status.GetTally().GetRows())
}
