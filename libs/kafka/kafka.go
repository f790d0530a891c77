// Package kafka is what Sluice needs of a Kafka cluster beside consuming: a sarama configuration from a pipeline's
// source, topics with their ids, offsets, single records, groups.
//
// It guarantees: nothing is ever created on the cluster; answers about topics and offsets are fresh, never from a
// cache; NextRecord passes over an offset only when no record that a consumer could see is there; an error names the
// field of the pipeline, what was attempted and what to do, and Permanent tells whether waiting can help. Secrets are
// read when a Config is made and appear in no error.
//
// It does not guarantee that a topic keeps its id between two calls: see docs/adr/0002-kafka-client.md for what a
// consumer has to check, and for what sarama does in each case.
package kafka

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	"github.com/IBM/sarama"

	controlv1 "sluice/gen/sluice/control/v1"
)

// ErrClosed is the error of calls on a closed Cluster.
var ErrClosed = errors.New("the connection to Kafka was closed here")

// Limits of one call. They bound how long Close waits for a call whose context ended first.
const (
	dialTimeout = 5 * time.Second
	readTimeout = 15 * time.Second
	// attempts, backoff: how long a call sits out an election or a broker that closed an idle connection.
	attempts = 5
	backoff  = 200 * time.Millisecond
)

// Cluster is a connection to a Kafka cluster for questions, not for consuming. Its methods may be called from
// several goroutines. A call ends when its context ends.
type Cluster struct {
	source *controlv1.KafkaSource
	client sarama.Client

	mu     sync.Mutex
	closed bool           // guarded by mu
	calls  sync.WaitGroup // added to under mu while not closed; awaited by Close
	stop   context.CancelFunc
}

// Open connects and authenticates. It does not ask whether the topic exists.
func Open(ctx context.Context, source *controlv1.KafkaSource, clientID string) (*Cluster, error) {
	config, err := Config(source, clientID)
	if err != nil {
		return nil, err
	}
	// One attempt each: this package has its own, which end with the context.
	config.Metadata.Retry.Max = 0
	config.Metadata.RefreshFrequency = 0
	config.Net.DialTimeout = dialTimeout
	config.Net.ReadTimeout = readTimeout
	config.Net.WriteTimeout = readTimeout
	// Connections end with Close. sarama takes a dialer of one's own as a proxy.
	connected, stop := context.WithCancel(context.WithoutCancel(ctx))
	config.Net.Proxy.Enable = true
	config.Net.Proxy.Dialer = dialer{connected, &net.Dialer{Timeout: dialTimeout, KeepAlive: config.Net.KeepAlive}}

	client, err := sarama.NewClient(source.GetBrokers(), config) // dials nothing yet
	if err != nil {
		stop()
		return nil, wrap(source, "set up the client", err)
	}
	c := &Cluster{source: source, client: client, stop: stop}
	_, err = do(ctx, c, "connect", func() (struct{}, error) {
		// The refresh finds a broker that answers; what it says of the topic does not matter here.
		err := client.RefreshMetadata(source.GetTopic())
		if errors.Is(err, sarama.ErrUnknownTopicOrPartition) || errors.Is(err, sarama.ErrLeaderNotAvailable) {
			err = nil
		}
		return struct{}{}, cause(err, source.GetBrokers(), config)
	})
	if err != nil {
		c.Close()
		return nil, err
	}
	return c, nil
}

// cause asks a broker why it refuses us where sarama keeps that to itself: it drops a refused mechanism and says only
// that no broker is left.
func cause(err error, brokers []string, config *sarama.Config) error {
	var k sarama.KError
	if !errors.Is(err, sarama.ErrOutOfBrokers) || errors.Unwrap(err) != nil || errors.As(err, &k) {
		return err
	}
	for _, addr := range brokers {
		b := sarama.NewBroker(addr)
		if opening := b.Open(config); opening != nil {
			return errors.Join(err, opening)
		}
		_, refusal := b.Connected() // waits for the attempt
		_ = b.Close()               // not connected is fine too
		if refusal != nil {
			return fmt.Errorf("%w: %w", err, refusal)
		}
	}
	return err
}

// Close ends the connections and waits for running calls, which fail. It may be called more than once.
func (c *Cluster) Close() {
	c.mu.Lock()
	first := !c.closed
	c.closed = true
	c.mu.Unlock()
	if first {
		c.stop()             // first: nobody waits for an answer any more
		_ = c.client.Close() // says only that it was closed before
	}
	c.calls.Wait()
}

// do runs f, which knows no context, beside the caller, who leaves when ctx ends; Close waits for f.
func do[T any](ctx context.Context, c *Cluster, attempt string, f func() (T, error)) (T, error) {
	type result struct {
		value T
		err   error
	}
	var zero T
	done := make(chan result, 1)
	c.mu.Lock()
	if c.closed {
		c.mu.Unlock()
		return zero, wrap(c.source, attempt, ErrClosed)
	}
	c.calls.Go(func() {
		v, err := f()
		done <- result{v, err}
	})
	c.mu.Unlock()
	select {
	case r := <-done:
		if r.err != nil {
			return zero, wrap(c.source, attempt, r.err)
		}
		return r.value, nil
	case <-ctx.Done():
		return zero, wrap(c.source, attempt, context.Cause(ctx))
	}
}

// retry repeats f while it fails for reasons that pass by themselves, with fresh metadata of the topic before each
// attempt.
func (c *Cluster) retry(ctx context.Context, topic string, f func() error) error {
	var err error
	for n := range attempts {
		if n > 0 {
			select {
			case <-time.After(backoff):
			case <-ctx.Done():
				return err
			}
		}
		if err = c.client.RefreshMetadata(topic); err == nil {
			err = f()
		}
		if err == nil || !passing(err) {
			return err
		}
	}
	return err
}

// ask sends one request to a broker. When the connection turns out to be broken it is closed, so that the next
// attempt opens another.
func ask[T any](b *sarama.Broker, send func() (T, error)) (T, error) {
	r, err := send()
	if err != nil && !isKError(err) {
		_ = b.Close() // we have an error already
	}
	return r, err
}

type dialer struct {
	ctx context.Context // ends with the cluster
	net *net.Dialer
}

// Dial makes connections that the end of the cluster closes under whoever waits on them: sarama would wait for the
// answer of a silent broker, three times the read timeout, before it closed.
func (d dialer) Dial(network, address string) (net.Conn, error) {
	c, err := d.net.DialContext(d.ctx, network, address)
	if err != nil {
		return nil, err
	}
	return conn{c, context.AfterFunc(d.ctx, func() { _ = c.Close() })}, nil
}

type conn struct {
	net.Conn
	forget func() bool
}

func (c conn) Close() error {
	c.forget()
	return c.Conn.Close()
}

func isolation(i controlv1.Isolation) sarama.IsolationLevel {
	if i == controlv1.Isolation_READ_UNCOMMITTED {
		return sarama.ReadUncommitted
	}
	return sarama.ReadCommitted
}

func missing(topic string, partition int32) error {
	return fmt.Errorf("topic %s, partition %d: %w", topic, partition, sarama.ErrIncompleteResponse)
}
