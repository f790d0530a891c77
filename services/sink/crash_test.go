package sink

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/IBM/sarama"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	"sluice/libs/lanes"
)

var errCrash = errors.New("crash")

// faultyJS ends the instance at one of its durable steps, before it is done or after, with its answer lost.
type faultyJS struct {
	jetstream.JetStream
	at    int64 // which step, from 0
	after bool
	steps atomic.Int64
	hit   atomic.Bool
	crash func()
}

// step runs a durable step, or half of one.
func (f *faultyJS) step(do func() error) error {
	if f.steps.Add(1)-1 != f.at {
		if f.hit.Load() {
			return errCrash // nothing works after the crash
		}
		return do()
	}
	f.hit.Store(true)
	if f.after {
		if err := do(); err != nil {
			return err
		}
	}
	f.crash()
	return errCrash
}

func (f *faultyJS) KeyValue(ctx context.Context, bucket string) (jetstream.KeyValue, error) {
	kv, err := f.JetStream.KeyValue(ctx, bucket)
	return &faultyKV{kv, f}, err
}

func (f *faultyJS) PublishMsg(ctx context.Context, msg *nats.Msg, opts ...jetstream.PublishOpt) (ack *jetstream.PubAck, err error) {
	stepErr := f.step(func() error {
		ack, err = f.JetStream.PublishMsg(ctx, msg, opts...)
		return err
	})
	return ack, stepErr
}

type faultyKV struct {
	jetstream.KeyValue
	js *faultyJS
}

func (k *faultyKV) Update(ctx context.Context, key string, value []byte, revision uint64) (out uint64, err error) {
	stepErr := k.js.step(func() error {
		out, err = k.KeyValue.Update(ctx, key, value, revision)
		return err
	})
	return out, stepErr
}

func (k *faultyKV) Get(ctx context.Context, key string) (jetstream.KeyValueEntry, error) {
	if k.js.hit.Load() {
		return nil, errCrash
	}
	return k.KeyValue.Get(ctx, key)
}

// A crash before and after each durable step (take, pending, fence and dead letter, advance): another instance
// goes on, and every row is in the table once or a dead letter once.
func TestCrashAtEachStep(t *testing.T) {
	w := newWorld(t, 1)
	at := int64(0)
	crashes := 0
	total, bad := 0, 0
	for ; ; at++ {
		for _, after := range []bool{false, true} {
			for range 3 {
				events := rowsOf(total, 40)
				events[11].ID += 1_000_000
				total, bad = total+40, bad+1
				w.send(0, events)
			}
			js := &faultyJS{JetStream: w.js, at: at, after: after}
			ctx, cancel := context.WithCancelCause(t.Context())
			js.crash = func() { cancel(lanes.ErrLost) }
			o := newOwner()
			done := make(chan error, 1)
			go func() { done <- w.lane(o, fmt.Sprintf("doomed-%d-%v", at, after), 0, js).run(ctx) }()
			require.Eventually(t, func() bool { return js.hit.Load() || o.settled() == uint64(total) }, patience, time.Millisecond)
			if !js.hit.Load() {
				// It came through before the step; an idle advance may still hit it. Either is fine.
				cancel(lanes.ErrStopping)
			}
			_ = <-done
			if js.hit.Load() {
				crashes++
			}
			heir := newOwner()
			stop := w.start(heir, "heir", 0, w.js)
			heir.waitFor(t, total)
			require.NoError(t, stop(lanes.ErrStopping))
			require.Equal(t, fmt.Sprintf("%d/%d", total-bad, total-bad), w.table(), "step %d, after %v", at, after)
			letters := map[string]int{}
			for _, l := range w.letters() {
				letters[string(l.GetKey())]++
			}
			require.Len(t, letters, bad, "step %d, after %v", at, after)
			for key, n := range letters {
				require.Equal(t, 1, n, "dead letter %s; step %d, after %v", key, at, after)
			}
			require.EqualValues(t, total-bad, heir.snapshot().GetTally().GetRows())
			if !js.hit.Load() {
				require.GreaterOrEqual(t, crashes, 10, "steps that were hit")
				return
			}
		}
	}
}

// oneWay is a TCP proxy that can swallow the server's answers once it has passed enough of the client's bytes on.
type oneWay struct {
	listener net.Listener
	target   string
	wg       sync.WaitGroup
	after    atomic.Int64 // swallow answers once so many bytes went up on a connection; 0: never
	mu       sync.Mutex
	conns    []net.Conn // guarded by mu
}

func newOneWay(t *testing.T, target string) *oneWay {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	p := &oneWay{listener: l, target: target}
	p.wg.Go(func() {
		for {
			down, err := l.Accept()
			if err != nil {
				return
			}
			up, err := net.Dial("tcp", target)
			if err != nil {
				_ = down.Close()
				continue
			}
			p.mu.Lock()
			p.conns = append(p.conns, down, up)
			p.mu.Unlock()
			var sent atomic.Int64
			p.wg.Go(func() { p.copy(up, down, &sent, false) })
			p.wg.Go(func() { p.copy(down, up, &sent, true) })
		}
	})
	t.Cleanup(func() {
		_ = l.Close()
		p.cut()
		p.wg.Wait()
	})
	return p
}

func (p *oneWay) copy(dst, src net.Conn, sent *atomic.Int64, answers bool) {
	defer dst.Close()
	defer src.Close()
	buf := make([]byte, 32<<10)
	for {
		n, err := src.Read(buf)
		if answers {
			if limit := p.after.Load(); limit > 0 && sent.Load() > limit {
				if err != nil {
					return
				}
				continue
			}
		} else {
			sent.Add(int64(n))
		}
		if n > 0 {
			if _, err := dst.Write(buf[:n]); err != nil {
				return
			}
		}
		if err != nil {
			return
		}
	}
}

// cut closes all connections.
func (p *oneWay) cut() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, c := range p.conns {
		_ = c.Close()
	}
	p.conns = nil
}

// The rows are in, the answer is lost, the connection breaks: the block is sent again and is in once.
func TestAnswerLost(t *testing.T) {
	w := newWorld(t, 1)
	proxy := newOneWay(t, w.record.Spec.Sink.Clickhouse.Addr[0])
	w.record.Spec.Sink.Clickhouse.Addr = []string{proxy.listener.Addr().String()}
	const rows = 900 // 60 KB: more than all that comes before the block
	proxy.after.Store(20_000)
	w.send(0, func() []event {
		events := rowsOf(0, rows)
		n := 1
		for i := range events { // one group, so that one insert brings all
			events[i].N = &n
		}
		return events
	}())
	o := newOwner()
	stop := w.start(o, "one", 0, w.js)
	for range 3 {
		require.Eventually(t, func() bool { return w.table() == "900/900" }, patience, 10*time.Millisecond)
		require.Zero(t, o.settled(), "in the table, but nobody has said so")
		proxy.cut()
	}
	proxy.after.Store(0)
	proxy.cut()
	o.waitFor(t, rows)
	require.Equal(t, "900/900", w.table())
	require.NoError(t, stop(lanes.ErrStopping))

	// The same across a kill: the heir knows only the pending range.
	proxy.after.Store(20_000)
	o = newOwner()
	kill := w.start(o, "two", 0, w.js)
	w.send(0, rowsOf(5000, 1000))
	require.Eventually(t, func() bool { return w.position(0).GetPending() != nil && w.table() != "900/900" }, patience, 10*time.Millisecond)
	_ = kill(lanes.ErrLost)
	proxy.after.Store(0)
	o = newOwner()
	stop = w.start(o, "three", 0, w.js)
	o.waitFor(t, rows+1000)
	require.Equal(t, "1900/1900", w.table())
	require.NoError(t, stop(lanes.ErrStopping))
}

// deleteTopic removes the topic with all its records.
func (w *world) deleteTopic() error {
	admin, err := sarama.NewClusterAdmin([]string{w.broker.Addr()}, sarama.NewConfig())
	if err != nil {
		return err
	}
	return errors.Join(admin.DeleteTopic("events"), admin.Close())
}
