package dedup

import (
	"context"
	"log/slog"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	controlv1 "sluice/gen/sluice/control/v1"
	stagev1 "sluice/gen/sluice/stage/v1"
	"sluice/libs/lanes"
	"sluice/libs/registry"
	"sluice/libs/service"
)

// TestOutlivesARestartOfNATS: the lane waits, visibly, and goes on where it was.
func TestOutlivesARestartOfNATS(t *testing.T) {
	w := newWorld(t, time.Second)
	o := newOwner()
	stop := w.running(o, 0)
	p := w.producer("0", 0)
	p.send(1, 2)
	w.outputs(1)
	w.nats.Stop()
	require.Eventually(t, func() bool {
		s := o.snapshot()
		return s.Condition == stagev1.UnitStatus_WAITING && s.LastError != ""
	}, 2*time.Minute, 10*time.Millisecond)
	w.nats.Start()
	p.send(2, 3) // waits for the server
	w.check()
	require.Eventually(t, func() bool { return o.snapshot().Condition == stagev1.UnitStatus_RUNNING }, 2*time.Minute, 10*time.Millisecond)
	require.NoError(t, stop(lanes.ErrStopping))
	w.check()
}

// TestService runs two instances of the whole stage against a registry.
func TestService(t *testing.T) {
	w := newWorld(t, time.Second)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	reg, err := registry.Open(ctx, w.js)
	require.NoError(t, err)
	w.record.Desired = controlv1.DesiredState_RUNNING
	w.record.Generation = 1
	_, err = reg.Create(ctx, w.record)
	require.NoError(t, err)
	// A pipeline without dedup is none of this stage's business: there are not even streams for it.
	_, err = reg.Create(ctx, &controlv1.PipelineRecord{
		Uid: "v", Desired: controlv1.DesiredState_RUNNING, Spec: &controlv1.Pipeline{Id: "q", Lanes: 1},
	})
	require.NoError(t, err)

	stages := make([]*Dedup, 2)
	done := make(chan error, 2)
	for i, name := range []string{"one", "two"} {
		stages[i], err = New(service.Deps{Instance: name, NATS: w.nc, JS: w.js, Log: slog.New(slog.DiscardHandler)}, reg)
		require.NoError(t, err)
		go func() { done <- stages[i].Run(ctx) }()
	}
	p := w.producer("0", 0)
	p.send(1, 2, 1)
	w.check()

	owner := func() int {
		for i, s := range stages {
			if len(s.Status("")) > 0 {
				return i
			}
		}
		return -1
	}
	require.Eventually(t, func() bool { return owner() >= 0 }, 2*time.Minute, 10*time.Millisecond)
	first := owner()
	n, err := stages[first].Checkpoint(ctx, "p")
	require.NoError(t, err)
	require.Equal(t, 1, n)
	// Drained, the lane moves to the other instance, which goes on with the keys of the first.
	require.NoError(t, stages[first].Drain(ctx))
	require.Empty(t, stages[first].Status(""))
	p.send(1, 2, 3)
	w.check()
	units := stages[1-first].Status("p")
	require.Len(t, units, 1)
	require.Equal(t, "dedup", units[0].Stage)
	require.Equal(t, "p", units[0].Pipeline)
	require.Eventually(t, func() bool {
		u := stages[1-first].Status("p")[0]
		return u.GetTally().GetDuplicates() == 3 && u.GetTally().GetRows() == 3 && u.GetStateKeys() == 3
	}, 2*time.Minute, 10*time.Millisecond)
	cancel()
	require.NoError(t, <-done)
	require.NoError(t, <-done)
}
