package ingestor

import (
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kadm"

	stagev1 "sluice/gen/sluice/stage/v1"
	"sluice/libs/fencedlog"
)

func (w *world) lettered() (offsets []int64) {
	for _, l := range w.letters() {
		offsets = append(offsets, l.GetOffset())
	}
	return offsets
}

// tells waits until a partition runs and says that.
func (i *instance) tells(t *testing.T, what string) {
	t.Helper()
	var last string
	defer func() {
		if t.Failed() {
			t.Logf("it says %q", last)
		}
	}()
	require.Eventually(t, func() bool {
		for _, s := range i.Status("") {
			last = s.GetLastError()
			return s.GetCondition() == stagev1.UnitStatus_RUNNING && strings.Contains(last, what)
		}
		return false
	}, 2*time.Minute, 5*time.Millisecond, "it does not say %q", what)
}

// The dead-letter stream is put back to an earlier copy: letters that are gone are made anew from Kafka, once, and it is told for good. What Kafka
// no longer has is named.
func TestLostLettersAreMadeAnew(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 1)
	first := w.start("first")
	w.produce(0, append(events(0, 10), "bad")...) // 10
	w.settled()
	first.quit(t)
	lose := w.nats.Copy(w.js)

	second := w.start("second")
	w.produce(0, append(append(events(10, 20), "worse", ""), append(events(20, 30), "worst")...)...) // 21, 33
	require.EqualValues(t, 3, w.settled().DeadLetters)
	for _, s := range second.Status("") {
		require.Empty(t, s.GetLastError())
	}
	second.quit(t)
	require.Equal(t, []int64{10, 21, 33}, w.lettered())

	dlq := fencedlog.Log{Pipeline: "events", Stage: fencedlog.DeadLetters}.Stream()
	// A start that is cut off after each of its steps makes none twice, and it is told whatever happens.
	for at := int64(0); ; at++ {
		lose(dlq)
		require.Equal(t, []int64{10}, w.lettered())
		i, f := w.startFaulty("faulty", crashed, at)
		require.Eventually(t, func() bool {
			select {
			case <-f.down:
				return true
			default:
				return f.calls.Load() >= 5 // fence, fence of the letters, what was found, the letters, the end of it
			}
		}, 2*time.Minute, 5*time.Millisecond, "step %d", at)
		i.quit(t)
		heir := w.start("heir")
		heir.tells(t, "the dead-letter stream lost its tail")
		heir.quit(t)
		require.Equal(t, []int64{10, 21, 33}, w.lettered(), "step %d", at)
		if f.calls.Load() <= at {
			require.Greater(t, at, int64(4), "each of them was the last one")
			break
		}
	}

	lose(dlq)
	w.produce(0, "bad") // 34
	third := w.start("third")
	require.EqualValues(t, 4, w.settled().DeadLetters)
	third.tells(t, "2 dead letters of offsets 11 to 33 of partition 0 of events were lost; 2 were made anew from Kafka")
	require.Equal(t, []int64{10, 21, 33, 34}, w.lettered())
	third.quit(t)

	lose(dlq)
	_, err := w.admin.DeleteRecords(w.ctx, kadm.Offsets{"events": {0: {Topic: "events", Partition: 0, At: 30}}})
	require.NoError(t, err)
	for _, name := range []string{"fourth", "fifth"} { // for good
		i := w.start(name)
		require.EqualValues(t, 4, w.settled().DeadLetters)
		i.tells(t, "3 dead letters of offsets 11 to 34 of partition 0 of events were lost; 2 were made anew")
		i.tells(t, "it has none from 11 to 29")
		require.Equal(t, []int64{10, 33, 34}, w.lettered())
		i.quit(t)
	}
	w.requireOnce(1, 30)
}

// The letters go while an ingestor runs that has nothing to do: it notices all the same.
func TestLostLettersAreMissedWhileItRuns(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 1)
	i := w.start("first")
	w.produce(0, append(events(0, 10), "bad")...) // 10
	w.settled()
	lose := w.nats.Copy(w.js)
	w.produce(0, "worse", "worst") // 11, 12
	require.EqualValues(t, 3, w.settled().DeadLetters)
	lose(fencedlog.Log{Pipeline: "events", Stage: fencedlog.DeadLetters}.Stream())
	i.tells(t, "2 dead letters of offsets 11 to 12 of partition 0 of events were lost; 2 were made anew from Kafka")
	require.Equal(t, []int64{10, 11, 12}, w.lettered())
	i.quit(t)
	w.requireOnce(1, 10)
}
