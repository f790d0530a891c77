package control

import (
	"context"
	"errors"
	"strings"
	"sync"
	"time"

	"google.golang.org/protobuf/proto"

	controlv1 "sluice/gen/sluice/control/v1"
	"sluice/libs/kafka"
	"sluice/libs/spec"
)

// idleCluster is how long a connection to Kafka is kept that nobody uses.
const idleCluster = 5 * time.Minute

// clusters keeps one connection per Kafka cluster and credentials.
type clusters struct {
	clientID string

	mu     sync.Mutex
	known  map[string]*cluster // guarded by mu
	closed bool                // guarded by mu
	ending sync.WaitGroup      // connections being closed
}

// cluster is one connection. slot is held while it is opened.
type cluster struct {
	slot chan struct{}
	conn *kafka.Cluster // guarded by clusters.mu
	used time.Time      // guarded by clusters.mu
}

func newClusters(clientID string) *clusters {
	return &clusters{clientID: clientID, known: map[string]*cluster{}}
}

// use calls f with a connection to the source's cluster. A connection that turns out to have the wrong
// credentials is closed: the next use reads the secrets anew.
func (c *clusters) use(ctx context.Context, source *controlv1.KafkaSource, f func(*kafka.Cluster) error) error {
	key, err := clusterKey(source)
	if err != nil {
		return err
	}
	conn, err := c.get(ctx, key, source)
	if err != nil {
		return err
	}
	err = f(conn)
	if kafka.Permanent(err) || errors.Is(err, kafka.ErrClosed) {
		c.drop(key, conn)
	}
	return err
}

// useOf is use for a source of a pipeline: errors name the field as the user has written it.
func (c *clusters) useOf(ctx context.Context, b spec.Branch, f func(*kafka.Cluster) error) error {
	err := c.use(ctx, b.Spec.GetKafka(), f)
	if err == nil || b.Source == "" {
		return err
	}
	return &sourceError{fieldsOfSource(b.Source, err.Error()), err}
}

// sourceError is an error about one of two sources.
type sourceError struct {
	text string
	err  error
}

func (e *sourceError) Error() string { return e.text }
func (e *sourceError) Unwrap() error { return e.err }

// fieldsOfSource names the fields of a text as they are called where there are several sources.
func fieldsOfSource(source, text string) string {
	if source == "" {
		return text
	}
	return strings.ReplaceAll(text, "source.kafka", "sources."+source+".kafka")
}

// clusterKey is equal for sources that one connection can serve.
func clusterKey(source *controlv1.KafkaSource) (string, error) {
	key, err := proto.MarshalOptions{Deterministic: true}.Marshal(&controlv1.KafkaSource{
		Brokers: source.GetBrokers(), Tls: source.GetTls(), Sasl: source.GetSasl(),
	})
	return string(key), err
}

func (c *clusters) get(ctx context.Context, key string, source *controlv1.KafkaSource) (*kafka.Cluster, error) {
	c.mu.Lock()
	entry := c.known[key]
	if entry == nil {
		entry = &cluster{slot: make(chan struct{}, 1)}
		c.known[key] = entry
	}
	c.mu.Unlock()
	select {
	case entry.slot <- struct{}{}:
		defer func() { <-entry.slot }()
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	c.mu.Lock()
	conn, closed := entry.conn, c.closed
	entry.used = time.Now()
	c.mu.Unlock()
	if closed {
		return nil, kafka.ErrClosed
	}
	if conn != nil {
		return conn, nil
	}
	conn, err := kafka.Open(ctx, source, c.clientID)
	if err != nil {
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		c.end(conn)
		return nil, kafka.ErrClosed
	}
	entry.conn = conn
	return conn, nil
}

// end closes a connection in the background, since that waits for calls in hand. Called with mu held.
func (c *clusters) end(conn *kafka.Cluster) { c.ending.Go(conn.Close) }

func (c *clusters) drop(key string, conn *kafka.Cluster) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if entry := c.known[key]; entry != nil && entry.conn == conn {
		entry.conn = nil
		c.end(conn)
	}
}

// sweep closes the connections that nobody has used for a while.
func (c *clusters) sweep(now time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, entry := range c.known {
		if entry.conn != nil && now.Sub(entry.used) > idleCluster {
			c.end(entry.conn)
			entry.conn = nil
		}
	}
}

// close closes all connections and waits; calls after it fail.
func (c *clusters) close() {
	c.mu.Lock()
	c.closed = true
	for _, entry := range c.known {
		if entry.conn != nil {
			c.end(entry.conn)
			entry.conn = nil
		}
	}
	c.mu.Unlock()
	c.ending.Wait()
}
