package sink

import (
	"context"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/proto"

	"sluice/libs/lanes"
)

// stoppable stops a lane right after a write of its position that names a pending block, or right before it.
type stoppable struct {
	jetstream.JetStream
	armed   atomic.Int32 // 1: stop before the write, 2: after it
	stopped chan struct{}
	wake    chan struct{}
}

type stoppableKV struct {
	jetstream.KeyValue
	s *stoppable
}

func (s *stoppable) KeyValue(ctx context.Context, bucket string) (jetstream.KeyValue, error) {
	kv, err := s.JetStream.KeyValue(ctx, bucket)
	return &stoppableKV{kv, s}, err
}

func (k *stoppableKV) Update(ctx context.Context, key string, value []byte, revision uint64) (uint64, error) {
	if k.s.armed.CompareAndSwap(1, 0) {
		close(k.s.stopped)
		<-k.s.wake
		return k.KeyValue.Update(context.WithoutCancel(ctx), key, value, revision)
	}
	out, err := k.KeyValue.Update(ctx, key, value, revision)
	if k.s.armed.CompareAndSwap(2, 0) {
		close(k.s.stopped)
		<-k.s.wake
	}
	return out, err
}

// A sink is stopped in the middle of sending a block, at each place where it matters; another takes its lane, and writes more
// blocks than the table remembers; the first wakes up and goes on, without anybody having told it. Nothing is
// written twice.
func TestZombie(t *testing.T) {
	for _, c := range []struct {
		name string
		stop func(*oneWay, *stoppable) // the zombie has a connection and has sent one block by it
		is   func(w *world, p *oneWay, s *stoppable) bool
		wake func(*oneWay, *stoppable)
	}{
		{"before its query reaches the server",
			func(p *oneWay, _ *stoppable) { p.hold.Store(1) },
			func(_ *world, p *oneWay, _ *stoppable) bool { return p.held.Load() },
			func(p *oneWay, _ *stoppable) { p.release() }},
		{"when the server has the query, before it says which block",
			func(_ *oneWay, s *stoppable) { s.armed.Store(1) },
			func(_ *world, _ *oneWay, s *stoppable) bool { return closed(s.stopped) },
			func(_ *oneWay, s *stoppable) { close(s.wake) }},
		{"when it has said which block, before the data",
			func(_ *oneWay, s *stoppable) { s.armed.Store(2) },
			func(_ *world, _ *oneWay, s *stoppable) bool { return closed(s.stopped) },
			func(_ *oneWay, s *stoppable) { close(s.wake) }},
		{"in the middle of the data",
			func(p *oneWay, _ *stoppable) { p.hold.Store(120_000) },
			func(_ *world, p *oneWay, _ *stoppable) bool { return p.held.Load() },
			func(p *oneWay, _ *stoppable) { p.release() }},
		{"when the rows are in, before it hears of it",
			func(p *oneWay, _ *stoppable) { p.after.Store(120_000) },
			func(w *world, _ *oneWay, _ *stoppable) bool { return w.table() == "2100/2100" },
			func(p *oneWay, _ *stoppable) { p.after.Store(0); p.cut() }},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld(t, 1)
			w.record.Spec.Batch.Rows = 2000
			require.NoError(t, w.sql.Exec(t.Context(), "ALTER TABLE "+w.database+".t MODIFY SETTING non_replicated_deduplication_window = 2"))
			healthy := w.record
			w.record = proto.CloneOf(healthy)
			proxy := newOneWay(t, healthy.GetSpec().GetSink().GetClickhouse().GetAddr()[0])
			w.record.Spec.Sink.Clickhouse.Addr = []string{proxy.listener.Addr().String()}
			s := &stoppable{JetStream: w.js, stopped: make(chan struct{}), wake: make(chan struct{})}
			zombie := newOwner()
			l := w.lane(zombie, "same", 0, s)
			ctx, end := context.WithCancel(context.Background())
			finished := make(chan error, 1)
			go func() { finished <- l.run(ctx) }()
			t.Cleanup(end)
			w.send(0, uniform(0, 100))
			zombie.waitFor(t, 100)
			require.Eventually(t, func() bool { return w.position(0).GetPending() == nil }, patience, time.Millisecond)

			c.stop(proxy, s)
			w.send(0, uniform(100, 2000)) // 130 KB
			require.Eventually(t, func() bool { return c.is(w, proxy, s) }, patience, time.Millisecond, "stopped")

			w.record = healthy
			heir := newOwner()
			stopHeir := w.start(heir, "same", 0, w.js) // of the same name: a process that was started anew
			sent := 2100
			heir.waitFor(t, sent)
			for range 6 {
				w.send(0, uniform(sent, 10))
				sent += 10
				heir.waitFor(t, sent)
			}
			want := fmt.Sprintf("%d/%d", sent, sent)
			require.Equal(t, want, w.table())
			c.wake(proxy, s)
			// It finds out by itself; the lane's lease has nothing to do with it.
			w.send(0, uniform(sent, 10))
			sent += 10
			heir.waitFor(t, sent)
			require.Eventually(t, func() bool { return len(finished) == 1 }, patience, time.Millisecond)
			require.ErrorIs(t, <-finished, errTaken)
			require.Equal(t, fmt.Sprintf("%d/%d", sent, sent), w.table())
			require.NoError(t, stopHeir(lanes.ErrStopping))
			require.Empty(t, w.letters())
			w.balances(c.name)
		})
	}
}

func closed(c chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

// uniform makes events that are one group.
func uniform(first, n int) []event {
	events := rowsOf(first, n)
	for i := range events {
		events[i].N = &i
	}
	return events
}
