package join

import (
	"context"
	"log/slog"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"sluice/libs/registry"
	"sluice/libs/service"
)

// TestService runs two instances of the whole stage. Drained, a lane moves with the rows that wait.
func TestService(t *testing.T) {
	w := newWorld(t, nil)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	reg, err := registry.Open(ctx, w.js)
	require.NoError(t, err)
	_, err = reg.Create(ctx, w.record)
	require.NoError(t, err)
	stages := make([]*Join, 2)
	done := make(chan error, 2)
	for i, name := range []string{"one", "two"} {
		stages[i], err = New(service.Deps{Instance: name, NATS: w.nc, JS: w.js, Log: slog.New(slog.DiscardHandler)}, reg, w.dir)
		require.NoError(t, err)
		go func() { done <- stages[i].Run(ctx) }()
	}
	orders, users := w.producer("orders", 0), w.producer("users", 0)
	orders.send(order(100_000, "ann", "o1", 1), order(100_000, "bob", "o2", 2))
	buffered := func(i int) uint64 {
		for _, u := range stages[i].Status("p") {
			return u.GetBufferedRows()["orders"]
		}
		return 0
	}
	first := -1
	require.Eventually(t, func() bool {
		for i := range stages {
			if buffered(i) == 2 {
				first = i
			}
		}
		return first >= 0
	}, 2*time.Minute, 10*time.Millisecond)
	n, err := stages[first].Checkpoint(ctx, "p")
	require.NoError(t, err)
	require.Equal(t, 1, n)
	require.NoError(t, stages[first].Drain(ctx))
	require.Empty(t, stages[first].Status(""))
	require.Eventually(t, func() bool { return buffered(1-first) == 2 }, 2*time.Minute, 10*time.Millisecond)
	users.send(user(101_000, "ann", `"Ann"`, 31, `"pro"`))
	require.Eventually(t, func() bool {
		for _, u := range stages[1-first].Status("p") {
			return u.GetTally().GetMatched() == 1 && u.GetTally().GetRows() == 1
		}
		return false
	}, 2*time.Minute, 10*time.Millisecond)
	cancel()
	require.NoError(t, <-done)
	require.NoError(t, <-done)
	rows, _ := w.output()
	require.Equal(t, []string{"o1 Ann 1 31 pro"}, texts(rows))
}
