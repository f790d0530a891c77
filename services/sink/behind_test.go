package sink

import (
	"context"
	"log/slog"
	"testing"

	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/proto"

	controlv1 "sluice/gen/sluice/control/v1"
	"sluice/libs/lanes"
	"sluice/libs/registry"
	"sluice/libs/service"
)

// A lane that has worked by a later record than the one it is given stands still: until the new one comes, or, when the registry has lost it, until the pipeline is
// applied again.
func TestStandsStillBehindAnOlderRecord(t *testing.T) {
	w := newWorld(t, 1)
	w.logOnly = true
	reg, err := registry.Open(t.Context(), w.js)
	require.NoError(t, err)
	lane := func(generation uint64) *lane {
		s, err := New(service.Deps{Instance: "i", NATS: w.nc, JS: w.js, Log: slog.New(slog.DiscardHandler)}, reg)
		require.NoError(t, err)
		rec := proto.CloneOf(w.record)
		rec.Generation = generation
		l, err := s.newLane(newOwner(), rec, 0, slog.New(slog.DiscardHandler))
		require.NoError(t, err)
		t.Cleanup(l.inserter.Close)
		return l
	}
	first, err := reg.Create(t.Context(), w.record)
	require.NoError(t, err)
	require.NoError(t, lane(1).take(t.Context()))
	require.NoError(t, lane(3).take(t.Context()))
	require.EqualValues(t, 3, w.position(0).GetGeneration())
	session := w.position(0).GetSession()

	err = lane(1).take(t.Context())
	require.ErrorIs(t, err, lanes.ErrBehind)
	require.ErrorContains(t, err, "the registry lost its tail: it has generation 1 of pipeline p, and its stages have worked by generation 3")
	require.Equal(t, session, w.position(0).GetSession(), "nothing is written")
	next := proto.CloneOf(w.record)
	next.Generation = 4
	_, err = reg.Update(t.Context(), next, first)
	require.NoError(t, err)
	require.ErrorContains(t, lane(1).take(t.Context()), "waiting for the new one")
	require.NoError(t, lane(4).take(t.Context()))
	require.EqualValues(t, 4, w.position(0).GetGeneration())

	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	require.Error(t, lanes.NotBehind(reg, &controlv1.PipelineRecord{Generation: 1})(ctx, 2))
}
