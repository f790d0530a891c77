package sink

import (
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	eventv1 "sluice/gen/sluice/event/v1"
	stagev1 "sluice/gen/sluice/stage/v1"
	"sluice/libs/lanes"
	"sluice/libs/playground/nats/natstest"
)

// What comes while a block is being sent, for many times max_delay, travels in one block.
func TestCollectsWhileSending(t *testing.T) {
	w := newWorld(t, 1)
	proxy := natstest.NewProxy(t, w.record.GetSpec().GetSink().GetClickhouse().GetAddr()[0])
	w.record.GetSpec().GetSink().GetClickhouse().Addr = []string{proxy.Addr()}
	proxy.Cut()
	w.logOnly = true
	o := newOwner()
	l := w.lane(o, "one", 0, w.js)
	l.pace = pace{time.Millisecond, 2 * time.Millisecond}
	var mu sync.Mutex
	var blocks []uint64 // rows of each
	l.publish = func(r *eventv1.Receipt) error {
		mu.Lock()
		defer mu.Unlock()
		blocks = append(blocks, r.GetRows())
		return nil
	}
	stop := start(t, l)
	w.send(0, uniform(0, 1))
	require.Eventually(t, func() bool { return o.snapshot().GetCondition() == stagev1.UnitStatus_WAITING }, patience, time.Millisecond)
	sent := 1
	for began := time.Now(); sent < 900 && time.Since(began) < 20*w.record.GetSpec().GetBatch().GetMaxDelay().AsDuration(); sent++ {
		w.send(0, uniform(sent, 1))
	}
	proxy.Mend()
	o.waitFor(t, sent)
	require.NoError(t, stop(lanes.ErrStopping))
	require.EqualValues(t, 1, blocks[0])
	require.Greater(t, blocks[1], uint64(sent/2), "blocks of %v rows", blocks)
}
