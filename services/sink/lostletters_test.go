package sink

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/proto"

	eventv1 "sluice/gen/sluice/event/v1"
	stagev1 "sluice/gen/sluice/stage/v1"
	"sluice/libs/fencedlog"
	"sluice/libs/lanes"
)

const theLetters = "sluice_p_dlq"

// refusedRows produces and logs rows of which some are refused, and waits until all are settled.
func (w *world) refusedRows(o *owner, from, n int) {
	w.t.Helper()
	events := rowsOf(from, n)
	for i := 1; i < n; i += 3 {
		events[i].ID += 1_000_000
	}
	w.send(0, events)
	o.waitFor(w.t, from+n)
}

func sameLetters(t *testing.T, want, got []*eventv1.DeadLetter, what string) {
	t.Helper()
	require.Len(t, got, len(want), what)
	for i := range want {
		require.True(t, proto.Equal(want[i], got[i]), "%s: letter %d: %v, was %v", what, i, got[i], want[i])
	}
}

// The dead-letter stream goes back to an earlier copy while the sink runs, or while it is away: the letters that are gone are made anew, and it is told
// for good. A crash at each step of that repeats none.
func TestLostLetters(t *testing.T) {
	w := newWorld(t, 1)
	o := newOwner()
	done := make(chan struct{})
	stop := startThen(t, w.lane(o, "one", 0, w.js), func() { close(done) })
	w.refusedRows(o, 0, 10)
	lose := w.keep()
	w.refusedRows(o, 10, 20)
	want := w.letters()
	require.Len(t, want, 10)
	require.Eventually(t, func() bool { return w.position(0).GetLetters().GetCount() == 10 }, patience, 5*time.Millisecond)
	lose(theLetters)
	require.Less(t, len(w.letters()), len(want))
	require.Eventually(t, func() bool { return closed(done) }, patience, 5*time.Millisecond, "it finds out while it runs")
	require.ErrorIs(t, stop(nil), fencedlog.ErrTailLost)

	o = newOwner()
	stop = w.start(o, "two", 0, w.js)
	tells := func(what string) {
		t.Helper()
		require.Eventually(t, func() bool {
			s := o.snapshot()
			return s.GetCondition() == stagev1.UnitStatus_RUNNING && strings.Contains(s.GetLastError(), what)
		}, patience, 5*time.Millisecond, "%q is not said", what)
	}
	tells("7 dead letters up to that of")
	tells("7 were made anew")
	sameLetters(t, want, w.letters(), "made anew")
	w.refusedRows(o, 30, 6)
	require.NoError(t, stop(lanes.ErrStopping))
	require.Equal(t, "24/24", w.table())
	w.balances("")

	// Again, and the sink dies at each step of making up for it.
	want = w.letters()
	for at := int64(0); ; at++ {
		lose(theLetters)
		f := &faults{JetStream: w.js, at: at, mode: crashed}
		f.what.Store(new(string))
		w.runFaulty(f, 36)
		o = newOwner()
		stop = w.start(o, "heir", 0, w.js)
		require.Eventually(t, func() bool { return len(w.letters()) >= len(want) }, patience, 5*time.Millisecond)
		tells("made anew")
		_ = stop(lanes.ErrStopping) // perhaps before its position says so
		sameLetters(t, want, w.letters(), fmt.Sprintf("step %d: %s", at, *f.what.Load()))
		require.Equal(t, "24/24", w.table())
		if !f.hit.Load() {
			require.Greater(t, at, int64(4), "steps")
			break
		}
	}
	w.balances("")
}
