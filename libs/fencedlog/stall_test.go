package fencedlog

import (
	"fmt"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	"sluice/libs/playground/nats/natstest"
)

// Who reads may pause for as long as it likes, as a sink does while ClickHouse is away: the server forgets what feeds a reader that
// asks for nothing, and tells nobody. The reader goes on all the same, with every message once.
func TestReaderOutlivesALongPause(t *testing.T) {
	ctx, js := contextFor(t), connect(t, natstest.Start(t))
	require.NoError(t, Ensure(ctx, js, testLog, Limits{}))
	w, _, err := Open(ctx, js, testLog, "0", Options{Lanes: []int{0}})
	require.NoError(t, err)
	const messages = 4 * readAheadMessages
	for i := range messages {
		_, err := w.Append(ctx, 0, fmt.Sprint(i), fmt.Append(nil, i))
		require.NoError(t, err)
	}
	r, err := OpenReader(ctx, js, testLog, 0, 1)
	require.NoError(t, err)
	defer r.Close()
	first, err := r.Next(ctx)
	require.NoError(t, err)
	require.Equal(t, "0", first.Position)

	// As much as is read ahead has come, and nothing is asked for any more: the moment from which the server counts.
	stream, err := js.Stream(ctx, testLog.Stream())
	require.NoError(t, err)
	var name string
	require.Eventually(t, func() bool {
		consumers := stream.ListConsumers(ctx)
		name = ""
		waiting := 0
		for info := range consumers.Info() {
			name, waiting = info.Name, info.NumWaiting
		}
		return consumers.Err() == nil && name != "" && waiting == 0
	}, time.Minute, 50*time.Millisecond)
	require.NoError(t, stream.DeleteConsumer(ctx, name))
	_, err = stream.Consumer(ctx, name)
	require.ErrorIs(t, err, jetstream.ErrConsumerNotFound)

	for i := 1; i < messages; i++ {
		m, err := r.Next(ctx)
		require.NoError(t, err, "message %d", i)
		require.Equal(t, fmt.Sprint(i), m.Position)
	}
}
