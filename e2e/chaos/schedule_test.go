package main

import (
	"testing"

	"github.com/stretchr/testify/require"
)

// The same seed gives the same schedule, another seed another one.
func TestPlanIsDeterministic(t *testing.T) {
	require.Equal(t, Plan(7, 200), Plan(7, 200))
	require.NotEqual(t, Plan(7, 200), Plan(8, 200))
}

// A plan has exactly the faults that were asked for, one a target in each step, never an instance too many or too few,
// and every kind once there are enough.
func TestPlanHoldsEverything(t *testing.T) {
	for seed := range uint64(50) {
		plan := Plan(seed, 2*len(deck()))
		kinds, total := map[string]bool{}, 0
		instances := map[string]int{Ingestor: startInstances, Dedup: startInstances, Sink: startInstances}
		several := false
		for _, step := range plan {
			require.NotEmpty(t, step.Faults)
			several = several || len(step.Faults) > 1
			targets := map[string]bool{}
			for _, f := range step.Faults {
				require.False(t, targets[f.Target], "two faults of %s at once", f.Target)
				targets[f.Target] = true
				kinds[f.Kind()] = true
				total++
				switch f.Action {
				case Add:
					instances[f.Target]++
				case Remove:
					instances[f.Target]--
				default:
					require.Positive(t, f.For+1)
				}
				if n, ok := instances[f.Target]; ok {
					require.GreaterOrEqual(t, n, minInstances)
					require.LessOrEqual(t, n, maxInstances)
				}
			}
		}
		require.Equal(t, 2*len(deck()), total)
		require.True(t, several)
		for _, f := range deck() {
			if f.Action != Add && f.Action != Remove { // one may have become the other
				require.True(t, kinds[f.Kind()], "seed %d: no %s", seed, f.Kind())
			}
		}
	}
}
