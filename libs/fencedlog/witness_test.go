package fencedlog

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"sluice/libs/playground/nats/natstest"
)

// What was said last stays in the log, whatever is purged, and a purge has an end when nothing else comes.
func TestTestimonyOutlivesPurges(t *testing.T) {
	ctx, js := contextFor(t), connect(t, natstest.Start(t))
	require.NoError(t, Ensure(ctx, js, testLog, Limits{}))
	said := func(lane int) string {
		t.Helper()
		body, err := Testimony(ctx, js, testLog, "sink", lane)
		require.NoError(t, err)
		return string(body)
	}
	say := func(lane int, what string) {
		t.Helper()
		require.NoError(t, Testify(js.Conn(), testLog, "sink", lane, []byte(what)))
		require.NoError(t, js.Conn().FlushWithContext(ctx))
		require.Eventually(t, func() bool { return said(lane) == what }, time.Minute, time.Millisecond)
	}
	require.Empty(t, said(0))
	// A writer of that name: its purge must not match.
	w, _, err := Open(ctx, js, testLog, "sink-0", Options{Lanes: []int{0}})
	require.NoError(t, err)
	for lane := range 3 {
		say(lane, "a")
	}
	say(0, "b")
	require.Equal(t, "b", said(0))

	n := 0
	fill := func(messages int) uint64 {
		t.Helper()
		var last uint64
		for range messages {
			n++
			last, err = w.Append(ctx, 0, fmt.Sprint(n), []byte("x"))
			require.NoError(t, err)
		}
		require.NoError(t, w.Settle(ctx, nil))
		return last
	}
	bounds := func() [2]uint64 {
		t.Helper()
		first, last, err := Bounds(ctx, js, testLog)
		require.NoError(t, err)
		return [2]uint64{first, last}
	}
	keep := fill(100)
	end := bounds()[1]
	require.NoError(t, Purge(ctx, js, testLog, keep))
	require.Equal(t, [2]uint64{keep, end + 3}, bounds())
	require.Equal(t, []string{"b", "a", "a"}, []string{said(0), said(1), said(2)})
	require.Len(t, read(t, js, 0), 1, "readers see what the writer has appended")
	// Nothing but that is new, once the writer's last fence is behind it.
	require.NoError(t, w.Settle(ctx, []byte("2")))
	require.NoError(t, Purge(ctx, js, testLog, bounds()[1]))
	end = bounds()[1]
	for range 3 {
		require.NoError(t, Purge(ctx, js, testLog, bounds()[1]))
	}
	require.Equal(t, end, bounds()[1])
	say(0, "c")
	require.NoError(t, Purge(ctx, js, testLog, fill(400)))
	require.Equal(t, []string{"c", "a", "a"}, []string{said(0), said(1), said(2)})
}
