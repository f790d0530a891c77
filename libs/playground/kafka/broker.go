// Package kafka is a broker that speaks Kafka's protocol inside the process, for `sluice dev` and quick tests: one
// node, without replication, based on franz-go's kfake.
//
// What producers, consumer groups, transactions and admin tools see is what Kafka 4 would answer, topic ids and
// read_committed included. Without a directory all records live in memory and end with the process; nothing here
// is meant for data that matters.
package kafka

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"strconv"
	"sync"

	"github.com/twmb/franz-go/pkg/kfake"
)

// Config of a broker.
type Config struct {
	// Listen is the host:port to listen on, and what clients are told to connect to. Port 0 takes a free one. A host
	// of all interfaces (0.0.0.0, ::, empty) is advertised as localhost.
	Listen string
	// Dir keeps topics, records and groups from one start to the next, also when the process is killed. Only one broker may use it. Empty: in memory.
	Dir string
	// Topics are made on the first start: name to number of partitions.
	Topics map[string]int32
	// AutoCreateTopics makes a topic, of Partitions partitions, when a client asks for one that does not exist and
	// allows it.
	AutoCreateTopics bool
	// Partitions of topics that are made without a number. Default 4.
	Partitions int
	// MaxMessageBytes is the largest batch taken. Default 64 MiB.
	MaxMessageBytes int
	// Log takes the broker's warnings. Default none.
	Log *slog.Logger
}

// Broker is a running broker. Its methods may be called from several goroutines.
type Broker struct {
	cluster *kfake.Cluster
	addr    string
	close   func()
}

// Open starts a broker; it answers when Open returns.
func Open(config Config) (*Broker, error) {
	host, port, err := net.SplitHostPort(config.Listen)
	if err != nil {
		return nil, fmt.Errorf("open Kafka broker: listen address %q: %w", config.Listen, err)
	}
	if config.Dir != "" {
		log := config.Log
		if log == nil {
			log = slog.New(slog.DiscardHandler)
		}
		if err := mend(config.Dir, log); err != nil {
			return nil, fmt.Errorf("open Kafka broker: %w", err)
		}
	}
	listener, err := net.Listen("tcp", config.Listen)
	if err != nil {
		return nil, fmt.Errorf("open Kafka broker: %w", err)
	}
	if ip := net.ParseIP(host); host == "" || ip != nil && ip.IsUnspecified() {
		host = "localhost"
	}
	if port == "0" {
		port = strconv.Itoa(listener.Addr().(*net.TCPAddr).Port)
	}
	addr := net.JoinHostPort(host, port)

	options := []kfake.Opt{
		kfake.NumBrokers(1),
		// kfake would listen on 127.0.0.1 and advertise what the listener says of itself.
		kfake.ListenFn(func(string, string) (net.Listener, error) {
			return advertised{listener, address(addr)}, nil
		}),
		kfake.DefaultNumPartitions(orDefault(config.Partitions, 4)),
		kfake.BrokerConfigs(map[string]string{
			"message.max.bytes": strconv.Itoa(orDefault(config.MaxMessageBytes, 64<<20)),
		}),
	}
	for topic, partitions := range config.Topics {
		options = append(options, kfake.SeedTopics(partitions, topic))
	}
	if config.AutoCreateTopics && config.Dir == "" { // else makeAsked does
		options = append(options, kfake.AllowAutoTopicCreation())
	}
	if config.Dir != "" {
		options = append(options, kfake.DataDir(config.Dir))
	}
	if config.Log != nil {
		options = append(options, kfake.WithLogger(logger{config.Log}))
	}
	cluster, err := kfake.NewCluster(options...)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("open Kafka broker on %s: %w", config.Listen, err), ignoreClosed(listener.Close()))
	}
	if config.AutoCreateTopics && config.Dir != "" {
		makeAsked(cluster)
	}
	members, err := newMembers(cluster, addr)
	if err != nil {
		cluster.Close()
		return nil, fmt.Errorf("open Kafka broker on %s: %w", config.Listen, err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { members.run(ctx) })
	return &Broker{cluster: cluster, addr: addr, close: sync.OnceFunc(func() {
		cancel()
		running.Wait()
		cluster.Close()
	})}, nil
}

// Addr is what clients connect to.
func (b *Broker) Addr() string { return b.addr }

// Cluster is the broker underneath, for tests that inject faults or move offsets.
func (b *Broker) Cluster() *kfake.Cluster { return b.cluster }

// Close stops the broker and ends all connections. It may be called more than once.
func (b *Broker) Close() { b.close() }

// advertised is a listener that gives the address that clients shall use for its own.
type advertised struct {
	net.Listener
	address address
}

func (a advertised) Addr() net.Addr { return a.address }

type address string

func (address) Network() string  { return "tcp" }
func (a address) String() string { return string(a) }

// logger passes on what is worth a person's attention: kfake's info level tells every request.
type logger struct{ to *slog.Logger }

func (l logger) Logf(level kfake.LogLevel, format string, args ...any) {
	switch level {
	case kfake.LogLevelError:
		l.to.Error("kafka broker: " + fmt.Sprintf(format, args...))
	case kfake.LogLevelWarn:
		l.to.Warn("kafka broker: " + fmt.Sprintf(format, args...))
	}
}

func orDefault(n, def int) int {
	if n <= 0 {
		return def
	}
	return n
}

func ignoreClosed(err error) error {
	if errors.Is(err, net.ErrClosed) {
		return nil
	}
	return err
}
