package watermark

import (
	"testing"

	"github.com/stretchr/testify/require"
)

// said is a batch of a partition of one source: how far its events have come, and since when there has been nothing to read (0: there is more).
func said(partition int32, arrivalMS, maxMS, idleSinceMS int64) Batch {
	return Batch{Writer: "w", Source: "s", Partition: partition, ArrivalMS: arrivalMS, MaxMS: maxMS, HasMax: true, IdleSinceMS: idleSinceMS, Partitions: 2}
}

func tracker(change func(*Config)) *Tracker {
	c := Config{IdleMS: 5000, ConfirmMS: 3000, Writers: map[string]int{"s": 1}}
	change(&c)
	return New(c)
}

// An idle partition whose time goes on with the clock is not passed, however fresh its word is; one of other events is, for as long as that is good.
func TestIdlePartitions(t *testing.T) {
	for name, c := range map[string]struct {
		change              func(*Config)
		clock               int64 // what arrival is ahead of event time
		fresh, stale, again int64
	}{
		"live":                {func(c *Config) { c.LiveHolds = true }, 0, 110_000, 110_000, 120_000},
		"live, as it was":     {func(*Config) {}, 0, 112_000, 112_000, 120_000},
		"of long ago":         {func(c *Config) { c.LiveHolds = true }, 1_000_000, 112_000, 112_000, 120_000},
		"many partitions":     {func(c *Config) { c.ConfirmEachMS = map[string]int64{"s": 4000} }, 0, 112_000, 118_000, 120_000},
		"many, but not so":    {func(c *Config) { c.ConfirmEachMS = map[string]int64{"s": 3999} }, 0, 112_000, 112_000, 120_000},
		"without confirming":  {func(c *Config) { c.ConfirmMS = 0 }, 0, 112_000, 118_000, 120_000},
		"still":               {func(c *Config) { c.Still = true }, 0, 112_000, 112_000, 120_000},
		"still, and it holds": {func(c *Config) { c.Still, c.LiveHolds = true, true }, 0, 100_000, 100_000, 100_000},
	} {
		t.Run(name, func(t *testing.T) {
			w := tracker(c.change)
			at := func(ms int64) int64 { return ms + c.clock }
			require.EqualValues(t, None, w.Add(said(0, at(100_000), 100_000, 0)), "of partition 1 nothing is known")
			require.EqualValues(t, 100_000, w.Add(said(1, at(100_000), 100_000, 0)))
			w.Add(said(1, at(110_000), 100_000, at(100_000)))
			require.Equal(t, c.fresh, w.Add(said(0, at(112_000), 112_000, 0)), "fresh")
			require.Equal(t, c.stale, w.Add(said(0, at(118_000), 118_000, 0)), "stale")
			w.Add(said(0, at(120_000), 120_000, 0))
			require.Equal(t, c.again, w.Add(said(1, at(120_000), 100_000, at(100_000))), "heard again")

			again := tracker(c.change)
			rest, err := again.Restore(append(w.Append(nil), "rest"...))
			require.NoError(t, err)
			require.Equal(t, "rest", string(rest))
			require.Equal(t, w, again)
			for cut := range w.Append(nil) {
				_, err := tracker(c.change).Restore(w.Append(nil)[:cut])
				require.Error(t, err, cut)
			}
		})
	}
}

// With Still, time is that of events alone, also when nobody has anything to read.
func TestStill(t *testing.T) {
	for still, want := range map[bool]int64{true: 90_000, false: 102_000} {
		w := tracker(func(c *Config) { c.Still = still })
		w.Add(said(0, 100_000, 90_000, 0))
		w.Add(said(1, 100_000, 80_000, 0))
		w.Add(said(0, 112_000, 90_000, 100_000))
		require.Equal(t, want, w.Add(said(1, 112_000, 80_000, 100_000)))
	}
}
