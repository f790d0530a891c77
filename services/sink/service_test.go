package sink

import (
	"context"
	"log/slog"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"sluice/libs/registry"
	"sluice/libs/service"
)

// Two instances of the whole service share the lanes; what one drains the other takes.
func TestService(t *testing.T) {
	w := newWorld(t, 2)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	reg, err := registry.Open(ctx, w.js)
	require.NoError(t, err)
	_, err = reg.Create(ctx, w.record)
	require.NoError(t, err)
	sinks := make([]*Sink, 2)
	done := make(chan error, 2)
	for i, name := range []string{"one", "two"} {
		sinks[i], err = New(service.Deps{Instance: name, NATS: w.nc, JS: w.js, Log: slog.New(slog.DiscardHandler)}, reg)
		require.NoError(t, err)
		go func() { done <- sinks[i].Run(ctx) }()
	}
	w.send(0, rowsOf(0, 100))
	w.send(1, rowsOf(100, 100))
	settled := func() (n uint64) {
		statuses, err := reg.Statuses(ctx, "p")
		require.NoError(t, err)
		for _, s := range statuses {
			n += s.GetTally().GetRows()
		}
		return n
	}
	require.Eventually(t, func() bool { return settled() == 200 }, patience, 20*time.Millisecond)
	require.Eventually(t, func() bool {
		return len(sinks[0].Status("p")) == 1 && len(sinks[1].Status("p")) == 1
	}, patience, 20*time.Millisecond, "each has a lane")
	n, err := sinks[0].Checkpoint(ctx, "p")
	require.NoError(t, err)
	require.Equal(t, 1, n)

	require.NoError(t, sinks[0].Drain(ctx))
	require.Empty(t, sinks[0].Status(""))
	w.send(0, rowsOf(200, 100))
	w.send(1, rowsOf(300, 100))
	require.Eventually(t, func() bool { return settled() == 400 && len(sinks[1].Status("p")) == 2 }, patience, 20*time.Millisecond)
	require.Equal(t, "400/400", w.table())
	cancel()
	require.NoError(t, <-done)
	require.NoError(t, <-done)
}
