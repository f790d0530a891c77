package sink

import (
	"context"
	"crypto/rand"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/proto"

	eventv1 "sluice/gen/sluice/event/v1"
	stagev1 "sluice/gen/sluice/stage/v1"
	"sluice/libs/checkpoint"
)

// TestALaneThatThePipelineHasNoMore: an instance that still works on it when its position is closed writes that no more, whatever it does next, and neither
// does one that comes later.
func TestALaneThatThePipelineHasNoMore(t *testing.T) {
	w := newWorld(t, 1)
	o := newOwner()
	ended := make(chan struct{})
	stop := startThen(t, w.lane(o, "zombie", 0, w.js), func() { close(ended) })
	running := func(o *owner) {
		require.Eventually(t, func() bool { return o.snapshot().GetCondition() == stagev1.UnitStatus_RUNNING }, patience, 5*time.Millisecond)
	}
	running(o)
	kv, err := w.js.KeyValue(t.Context(), checkpoint.Bucket("p"))
	require.NoError(t, err)
	read := func() (*eventv1.SinkPosition, uint64) {
		entry, err := kv.Get(t.Context(), positionKey(0))
		require.NoError(t, err)
		p := &eventv1.SinkPosition{}
		require.NoError(t, proto.Unmarshal(entry.Value(), p))
		return p, entry.Revision()
	}
	p, rev := read()
	p.Closed, p.Owner, p.Session = true, "control", rand.Text()
	value, err := proto.Marshal(p)
	require.NoError(t, err)
	closed, err := kv.Update(t.Context(), positionKey(0), value, rev)
	require.NoError(t, err)

	w.send(0, []event{{ID: 1, Text: "a"}}) // it has something to write down
	<-ended
	require.ErrorIs(t, stop(context.Canceled), errTaken)
	again := newOwner()
	stop = w.start(again, "zombie", 0, w.js)
	running(again)
	require.NoError(t, stop(context.Canceled))
	there, at := read()
	require.Equal(t, closed, at, "nobody has written it")
	require.True(t, there.GetClosed())
	require.Equal(t, "0/0", w.table())
}
