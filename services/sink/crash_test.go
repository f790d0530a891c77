package sink

import (
	"errors"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/IBM/sarama"
	"github.com/stretchr/testify/require"

	"sluice/libs/lanes"
)

// oneWay is a TCP proxy that can swallow the server's answers once it has passed enough of the client's bytes on.
type oneWay struct {
	listener net.Listener
	target   string
	wg       sync.WaitGroup
	after    atomic.Int64 // swallow answers once so many bytes went up on a connection; 0: never
	hold     atomic.Int64 // hold the client's bytes back from so many on, as if it were stopped; 0: never
	mu       sync.Mutex
	conns    []net.Conn    // guarded by mu
	released chan struct{} // guarded by mu; closed by release
	held     atomic.Bool   // something is held back
}

func newOneWay(t *testing.T, target string) *oneWay {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	p := &oneWay{listener: l, target: target, released: make(chan struct{})}
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
		p.release()
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
		} else if limit := p.hold.Load(); limit > 0 && sent.Add(int64(n)) > limit {
			p.mu.Lock()
			released := p.released
			p.mu.Unlock()
			p.held.Store(true)
			<-released
		} else if limit == 0 {
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

// release passes on what was held back, and holds nothing more.
func (p *oneWay) release() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.hold.Store(0)
	select {
	case <-p.released:
	default:
		close(p.released)
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
	w.balances("")
}

// deleteTopic removes the topic with all its records.
func (w *world) deleteTopic() error {
	admin, err := sarama.NewClusterAdmin([]string{w.broker.Addr()}, sarama.NewConfig())
	if err != nil {
		return err
	}
	return errors.Join(admin.DeleteTopic("events"), admin.Close())
}
