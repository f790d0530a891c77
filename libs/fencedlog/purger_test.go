package fencedlog

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"sluice/libs/playground/nats/natstest"
)

// What is needed no more stays for a while, but not in a log that fills up, and never goes what is needed again by now.
func TestPurgerWaits(t *testing.T) {
	ctx, js := contextFor(t), connect(t, natstest.Start(t))
	require.NoError(t, Ensure(ctx, js, testLog, Limits{MaxBytes: 1 << 20}))
	w, _, err := Open(ctx, js, testLog, "0", Options{Lanes: []int{0}})
	require.NoError(t, err)
	var sequences []uint64
	add := func(bytes int) {
		t.Helper()
		s, err := w.Append(ctx, 0, fmt.Sprint(len(sequences)), make([]byte, bytes))
		require.NoError(t, err)
		require.NoError(t, w.Settle(ctx, nil))
		sequences = append(sequences, s)
	}
	for range 6 {
		add(10)
	}
	left := func() int { return len(read(t, js, 0)) }
	p, begin := Purger{After: time.Minute}, time.Now()
	purge := func(keep uint64, after time.Duration) {
		t.Helper()
		require.NoError(t, p.Purge(ctx, js, testLog, keep, begin.Add(after)))
	}
	purge(sequences[2], 0)
	purge(sequences[3], 10*time.Second)
	purge(sequences[4], 59*time.Second)
	require.Equal(t, 6, left())
	purge(sequences[4], time.Minute)
	require.Equal(t, 4, left(), "what was before the third is gone")
	purge(sequences[2], 2*time.Minute)
	require.Equal(t, 4, left(), "a lane went back; it needs the third again")
	purge(sequences[5], 2*time.Minute+time.Second)
	require.Equal(t, 2, left(), "it has gone on: what was needed no more a minute ago goes")

	add(300 << 10)
	add(10)
	purge(sequences[7], 2*time.Minute+2*time.Second)
	require.Equal(t, 1, left(), "more than a quarter of the log's limit")

	now := Purger{}
	add(10)
	require.NoError(t, now.Purge(ctx, js, testLog, sequences[8], begin))
	require.Equal(t, 1, left(), "at once")
}
