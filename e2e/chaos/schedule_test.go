package main

import (
	"testing"

	"github.com/stretchr/testify/require"
)

var (
	dedupStages = (*dedupJob)(nil).Stages()
	joinStages  = (*joinJob)(nil).Stages()
)

// The same seed gives the same schedule, another seed another one.
func TestPlanIsDeterministic(t *testing.T) {
	require.Equal(t, Plan(7, 200, joinStages), Plan(7, 200, joinStages))
	require.NotEqual(t, Plan(7, 200, joinStages), Plan(8, 200, joinStages))
}

// A plan has exactly the faults that were asked for, one a target in each step, never an instance too many or too few,
// and every kind once there are enough.
func TestPlanHoldsEverything(t *testing.T) {
	t.Run(JobDedup, func(t *testing.T) { planHoldsEverything(t, dedupStages) })
	t.Run(JobJoin, func(t *testing.T) { planHoldsEverything(t, joinStages) })
}

// Putting the store back happens alone.
func TestPutBackHappensAlone(t *testing.T) {
	n := 0
	for _, step := range Plan(3, 300, dedupStages, putBacks...) {
		for _, f := range step.Faults {
			if f.Action == PutBack {
				n++
				require.Len(t, step.Faults, 1)
			}
		}
	}
	require.Greater(t, n, 10)
}

func planHoldsEverything(t *testing.T, stages []string) {
	faults := 2 * len(deck(stages))
	for seed := range uint64(50) {
		plan := Plan(seed, faults, stages)
		kinds, total := map[string]bool{}, 0
		instances := map[string]int{}
		for _, stage := range stages {
			instances[stage] = startInstances
		}
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
		require.Equal(t, faults, total)
		require.True(t, several)
		for _, f := range deck(stages) {
			if f.Action != Add && f.Action != Remove { // one may have become the other
				require.True(t, kinds[f.Kind()], "seed %d: no %s", seed, f.Kind())
			}
		}
	}
}
