package sink

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"sluice/libs/fencedlog"
	"sluice/libs/lanes"
)

// joinLog is a join's log whose messages say where they belong, as a join writes it.
type joinLog struct {
	*world
	epoch int
	step  uint64    // of the input
	after string    // position of the last message
	clock time.Time // when the input's last message was stored
}

func newJoinLog(t *testing.T) *joinLog {
	l := &joinLog{world: newJoin(t), after: "0", clock: time.Now().Add(-time.Hour)}
	l.forgetTokens(17)
	return l
}

// put appends a message of pairs.
func (l *joinLog) put(events []event) {
	l.t.Helper()
	l.step++
	l.clock = l.clock.Add(time.Millisecond)
	v := l.pairs(events)
	position := fmt.Sprint(l.step)
	if l.epoch > 0 {
		position = fmt.Sprintf("%d:%s", l.epoch, position)
	}
	link := fencedlog.Link{Input: fencedlog.Mark{Sequence: l.step, Time: l.clock}, After: l.after}
	_, err := l.writer.AppendLinked(l.t.Context(), 0, position, link, v.Append(nil))
	require.NoError(l.t, err)
	l.after = position
}

// keepBoth is keep of the join's log and of its input, which the join reads again from where it was. knows: the join finds that, and raises its epoch.
func (l *joinLog) keepBoth() (lose func(knows bool)) {
	l.t.Helper()
	was := *l
	back := l.keep()
	return func(knows bool) {
		l.t.Helper()
		back(theJoin)
		l.step, l.after, l.clock = was.step, was.after, l.clock.Add(time.Minute)
		if knows {
			l.epoch++
			l.step += 3 // other batches
		}
		l.open()
	}
}

// run runs a lane until the table has so many rows, each once.
func (l *joinLog) run(rows int) *owner {
	l.t.Helper()
	o := newOwner()
	stop := l.start(o, "i", 0, l.js)
	last, err := fencedlog.LastOf(l.t.Context(), l.js, l.log(), 0)
	require.NoError(l.t, err)
	require.Eventually(l.t, func() bool { return o.snapshot().GetPosition() >= last }, patience, 5*time.Millisecond, "%v", o.snapshot())
	require.NoError(l.t, stop(lanes.ErrStopping))
	require.Equal(l.t, fmt.Sprintf("%d/%d", rows, rows), l.table(), "%v", o.snapshot())
	return o
}

// The join's log and its input lose their tails, of which the lane had all. What the join had put out comes again in another order, between new rows: each is in the
// table once, and counted once, whether the join has found out or not.
func TestAJoinPutsOutAgain(t *testing.T) {
	for _, knows := range []bool{true, false} {
		t.Run(fmt.Sprint("the join knows: ", knows), func(t *testing.T) {
			l := newJoinLog(t)
			events := rowsOf(0, 300)
			l.put(events[:10])
			l.run(10)
			lose := l.keepBoth()
			for i := range 5 {
				l.put(events[10+10*i : 20+10*i])
			}
			l.run(60)
			l.balances("before")
			lose(knows)
			again := slices.Concat(events[10:20], events[30:100]) // the others wait
			slices.Reverse(again[5:])
			for i := range 8 {
				l.put(again[10*i : 10*i+10])
			}
			o := l.run(100)
			require.Contains(t, o.snapshot().GetLastError(), "the join puts out again")
			require.EqualValues(t, 40, o.snapshot().GetHealedRows())
			require.EqualValues(t, 100, o.snapshot().GetTally().GetRows())
			require.EqualValues(t, 4, l.position(0).GetFormat(), "earlier versions must not go on with it")
			l.balances("once")

			// The last of them come when the sink has been started anew.
			l.put(slices.Concat(events[100:120], events[20:30]))
			o = l.run(120)
			require.EqualValues(t, 50, o.snapshot().GetHealedRows())
			l.balances("anew")

			// It happens again; then only the join's own log is lost, and the same messages come.
			lose = l.keepBoth()
			l.put(events[120:140])
			l.put(events[140:150])
			l.run(150)
			lose(knows)
			l.put(events[145:160])
			lost := l.keep()
			was := *l
			l.put(events[120:145])
			l.run(160)
			lost(theJoin)
			l.step, l.after, l.clock = was.step, was.after, was.clock
			l.open()
			l.put(events[120:145])
			l.put(events[160:170])
			l.run(170)
			l.balances("twice")
		})
	}
}

// A block is in doubt when its messages are lost, after one step or another, and do not come again: others do. What it has left in the table is found.
func TestAJoinPutsOutAgainWhatWasInDoubt(t *testing.T) {
	for at, more := int64(0), true; more; at++ {
		for _, knows := range []bool{true, false} {
			l := newJoinLog(t)
			events := rowsOf(0, 60)
			l.put(events[:10])
			l.run(10)
			l.put(events[10:12]) // stays in the log
			lose := l.keepBoth()
			l.put(events[12:20])
			l.put(events[20:30])
			f := &faults{JetStream: l.js, at: at, mode: crashed}
			f.what.Store(new(string))
			l.runFaulty(f, 30)
			t.Logf("step %d: %s", at, *f.what.Load())
			more = f.hit.Load()
			lose(knows)
			again := slices.Clone(events[12:60])
			slices.Reverse(again)
			l.put(again[:25])
			l.put(again[25:])
			l.run(60)
			if l.position(0).GetLedger() != nil {
				l.balances(*f.what.Load())
			}
			l.put(rowsOf(60, 5))
			l.run(65)
		}
	}
}

// A crash after each step of blocks some of whose rows are in the table, and counted: after it, those that the block itself has brought there are counted, too.
func TestACrashWhileItIsLooked(t *testing.T) {
	for at, more := int64(0), true; more; at++ {
		l := newJoinLog(t)
		events := rowsOf(0, 60)
		l.put(events[:10])
		l.run(10)
		lose := l.keepBoth()
		l.put(events[10:30])
		l.run(30)
		lose(true)
		again := slices.Clone(events[10:60])
		slices.Reverse(again)
		for i := range 5 {
			l.put([]event{again[i], again[5+i], again[10+i], again[15+i], again[20+i], again[25+i], again[30+i], again[35+i], again[40+i], again[45+i]})
		}
		f := &faults{JetStream: l.js, at: at, mode: crashed}
		f.what.Store(new(string))
		l.runFaulty(f, 60)
		more = f.hit.Load()
		o := l.run(60)
		require.EqualValues(t, 60, o.snapshot().GetTally().GetRows(), "step %d: %s", at, *f.what.Load())
		l.balances(*f.what.Load())
	}
}
