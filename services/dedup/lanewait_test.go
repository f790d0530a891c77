package dedup

import (
	"context"
	"math"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/proto"

	controlv1 "sluice/gen/sluice/control/v1"
	eventv1 "sluice/gen/sluice/event/v1"
	stagev1 "sluice/gen/sluice/stage/v1"
	"sluice/libs/checkpoint"
	"sluice/libs/fencedlog"
	"sluice/libs/lanes"
)

func (w *world) manifest(lane int) *eventv1.Manifest {
	w.t.Helper()
	left, _, err := checkpoint.LeftBy(w.t.Context(), checkpoint.Config{JS: w.js, Pipeline: "p", Stage: stageName}, []int{lane})
	require.NoError(w.t, err)
	return left.Manifests()[0]
}

// A lane that waits for those before covers what the input holds for others. It is killed then, and again as soon as it has taken over: it goes on, and
// what was given up of its checkpoints is not taken for a loss of its log.
func TestALaneThatWaitsForThoseBeforeIsKilled(t *testing.T) {
	w := newWorld(t, time.Hour)
	w.record.LaneSets = []*controlv1.LaneSet{{First: 0, Count: 1}, {First: 1, Count: 1}}
	before := w.producer("0", 0)
	before.send(1, 2, 3)
	require.NoError(t, before.writer.Settle(t.Context(), settledIn(t, 0)))

	waits := newOwner()
	stop := w.running(waits, 1)
	require.Eventually(t, func() bool { return w.manifest(1).GetCoveredSequence() > 0 }, 2*time.Minute, 5*time.Millisecond, "it gives way")
	require.NoError(t, stop(lanes.ErrLost))

	again := newOwner()
	stop = w.running(again, 1)
	old := newOwner()
	stopOld := w.running(old, 0)
	require.NoError(t, before.writer.Settle(t.Context(), settledIn(t, 1)))
	inherited := func() bool { return w.manifest(1).GetInherited() }
	require.Eventually(t, inherited, 2*time.Minute, 5*time.Millisecond, "it takes over: %v", again.snapshot())
	require.NoError(t, stop(lanes.ErrLost))
	require.NoError(t, stopOld(lanes.ErrLost))
	require.True(t, w.manifest(0).GetClosed())

	last := newOwner()
	stop = w.running(last, 1)
	after := w.producer("0", 1)
	after.send(2, 3, 4)
	require.Eventually(t, func() bool { return last.snapshot().GetTally().GetRecords() == 3 }, 2*time.Minute, 5*time.Millisecond)
	require.EqualValues(t, 2, last.snapshot().GetTally().GetDuplicates(), "keys of the lane before are remembered")
	require.NoError(t, stop(lanes.ErrLost))

	// The lane of before counts as it did, also for a status that was lost.
	closed := newOwner()
	ctx, cancel := context.WithCancelCause(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- w.run(ctx, closed, 0) }()
	require.Eventually(t, func() bool { return closed.snapshot().GetCondition() == stagev1.UnitStatus_RUNNING }, 2*time.Minute, 5*time.Millisecond)
	cancel(lanes.ErrStopping)
	require.NoError(t, <-ended)
	require.EqualValues(t, 3, closed.snapshot().GetTally().GetRecords())

	// The pipeline has it no more. Whoever believes that it has appends nothing, and does not take it for a loss that the fence is gone.
	zombie, _, err := fencedlog.Open(t.Context(), w.js, w.output, "0", fencedlog.Options{Lanes: []int{0}})
	require.NoError(t, err)
	other, _, err := fencedlog.Open(t.Context(), w.js, w.output, "1", fencedlog.Options{Lanes: []int{1}})
	require.NoError(t, err)
	_, err = other.Append(t.Context(), 1, "end", nil)
	require.NoError(t, err)
	require.NoError(t, checkpoint.Retire(t.Context(), checkpoint.Config{JS: w.js, Pipeline: "p", Stage: stageName, Lane: 0}))
	done, err := fencedlog.Retire(t.Context(), w.js, w.output, []string{"0"}, math.MaxUint64)
	require.NoError(t, err)
	require.True(t, done)
	_, err = zombie.Append(t.Context(), 0, "9", nil)
	require.ErrorIs(t, err, fencedlog.ErrFenced)
	retired := newOwner()
	stop = w.running(retired, 0)
	require.Eventually(t, func() bool { return retired.snapshot().GetCondition() == stagev1.UnitStatus_RUNNING }, 10*time.Second, 5*time.Millisecond)
	require.NoError(t, stop(lanes.ErrStopping))
	require.EqualValues(t, 3, retired.snapshot().GetTally().GetRecords())
	require.Empty(t, retired.snapshot().GetLastError())
	fences, err := fencedlog.Fences(t.Context(), w.js, w.output)
	require.NoError(t, err)
	require.Contains(t, fences, "1")
	require.NotContains(t, fences, "0", "nor does it leave another fence")
}

// The bucket has lost what a lane had taken over, and the lanes before are gone: to begin with no keys would let through what they had seen.
func TestALaneThatHasLostWhatItTookOver(t *testing.T) {
	w := newWorld(t, time.Hour)
	w.record.LaneSets = []*controlv1.LaneSet{{First: 1, Count: 1}}
	w.producer("0", 1).send(1, 2, 3)
	require.ErrorContains(t, w.run(t.Context(), newOwner(), 1), "sluice_p_state lost its tail")
	last, err := fencedlog.LastOf(t.Context(), w.js, w.output, 1)
	require.NoError(t, err)
	require.Zero(t, last)
}

// settledIn is what the fence of an ingest writer says that has gone over to the set of lanes beginning with first.
func settledIn(t *testing.T, first uint32) []byte {
	t.Helper()
	body, err := proto.Marshal(&eventv1.IngestPosition{LanesFrom: first})
	require.NoError(t, err)
	return body
}
