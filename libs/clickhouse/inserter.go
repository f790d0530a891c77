package clickhouse

import (
	"context"
	"errors"
	"fmt"
	"time"

	controlv1 "sluice/gen/sluice/control/v1"
)

// Inserter inserts blocks one at a time, over one connection that it opens when it needs one. It fails over: an
// address that cannot be reached, or that fails, is followed by the next. Not for concurrent use.
type Inserter struct {
	sink    *controlv1.ClickHouseSink
	addrs   []string
	current int // index into addrs
	session *session
	used    time.Time // when session was last used
	version Version
}

// ErrNotConnected says that no address could be reached: nothing was sent.
var ErrNotConnected = errors.New("clickhouse cannot be reached")

// maxIdle is how long a connection is trusted that nothing was sent on: middleboxes forget it silently.
const maxIdle = 30 * time.Second

// NewInserter checks the sink's settings; it does not connect.
func NewInserter(sink *controlv1.ClickHouseSink) (*Inserter, error) {
	if len(sink.GetAddr()) == 0 {
		return nil, &ConfigError{"sink.clickhouse.addr", errors.New("no address is given")}
	}
	if err := CheckSettings(sink.GetSettings()); err != nil {
		return nil, err
	}
	return &Inserter{sink: sink, addrs: addresses(sink)}, nil
}

// Insert sends the block and returns nil once the server has committed it, or recognised it as committed
// before. Classify tells what an error means. When ctx ends the connection is closed: what becomes of the
// block is then unknown.
func (n *Inserter) Insert(ctx context.Context, i Insert) error {
	if err := n.connect(ctx); err != nil {
		return err
	}
	if err := n.session.insert(ctx, i); err != nil {
		n.Close()
		if elsewhere(err) {
			n.current = (n.current + 1) % len(n.addrs)
		}
		return err
	}
	n.used = time.Now()
	return nil
}

// Version of the server that was connected to last; zero before the first connection.
func (n *Inserter) Version() Version { return n.version }

// Close ends the connection. The Inserter can be used again.
func (n *Inserter) Close() {
	if n.session != nil {
		n.session.close()
		n.session = nil
	}
}

// elsewhere says whether another address may do better: not when the answer is about the block or the table.
func elsewhere(err error) bool {
	if errors.Is(err, ErrNotSent) {
		return false
	}
	switch Classify(err) {
	case Ambiguous, Retry:
		return true
	default:
		return false
	}
}

// connect tries each address once, beginning with the current one.
func (n *Inserter) connect(ctx context.Context) error {
	if n.session != nil && time.Since(n.used) < maxIdle {
		return nil
	}
	n.Close()
	// Secrets and certificates are read anew, so that rotation needs no restart.
	secret, err := password(n.sink.GetPassword())
	if err != nil {
		return err
	}
	config, err := tlsConfig(n.sink.GetTls())
	if err != nil {
		return err
	}
	var errs []error
	for range n.addrs {
		s, err := dial(ctx, endpoint{addr: n.addrs[n.current], username: username(n.sink), password: secret, tls: config})
		if err == nil {
			n.session, n.version, n.used = s, s.version(), time.Now()
			return nil
		}
		errs = append(errs, err)
		if ctx.Err() != nil {
			break
		}
		n.current = (n.current + 1) % len(n.addrs)
	}
	return fmt.Errorf("%w: %w", ErrNotConnected, errors.Join(errs...))
}
