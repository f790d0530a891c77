package fold

import (
	"context"
	"testing"

	"github.com/stretchr/testify/require"

	eventv1 "sluice/gen/sluice/event/v1"
	stagev1 "sluice/gen/sluice/stage/v1"
	"sluice/libs/checkpoint"
)

// still is a Core that does nothing.
type still struct{}

func (still) Restore(context.Context, *eventv1.Manifest, func(func(*eventv1.Segment, []byte) error) error) error {
	return nil
}
func (still) Step(Input, Emitter) error                       { return nil }
func (still) Checkpoint(*eventv1.Manifest) []checkpoint.Chunk { return nil }
func (still) Report(*stagev1.UnitStatus)                      {}
func (still) Close() error                                    { return nil }

type status struct{ stagev1.UnitStatus }

func (s *status) Report(change func(*stagev1.UnitStatus)) { change(&s.UnitStatus) }
func (*status) Running()                                  {}
func (*status) Checkpoints() <-chan chan<- error          { return nil }

// TestStatusDoesNotGoBack while a new owner replays what the last one has shown.
func TestStatusDoesNotGoBack(t *testing.T) {
	u, f := &status{}, &fold{core: still{}}
	u.Tally = &eventv1.Tally{Records: 5}
	f.tally.Records = 4
	f.report(u, 1)
	require.EqualValues(t, 5, u.Tally.Records)
	f.tally.Records = 6
	f.report(u, 0)
	require.EqualValues(t, 6, u.Tally.Records)
}

func TestPositions(t *testing.T) {
	for _, p := range []position{{0, 0, whole}, {0, 57, whole}, {0, 57, 0}, {3, 57, 12}, {3, 1, whole}} {
		got, err := positionOf(p.String())
		require.NoError(t, err)
		require.Equal(t, p, got)
	}
	for _, text := range []string{"x", "1/", "1/-2", ":1", "1:2:3", "-1", "1.5", "1/2/3"} {
		_, err := positionOf(text)
		require.Error(t, err, text)
	}
	order := []position{{0, 0, whole}, {0, 56, 3}, {0, 56, whole}, {0, 57, 0}, {0, 57, 1}, {0, 57, whole}, {1, 2, 0}, {1, 2, whole}}
	for i, p := range order {
		for j, q := range order {
			require.Equal(t, i >= j, p.covers(q), "%v %v", p, q)
		}
	}
	require.Equal(t, "57", position{0, 57, whole}.String(), "as stages without parts have always written it")
}
