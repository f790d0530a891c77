package kafka_test

import (
	"context"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	controlv1 "sluice/gen/sluice/control/v1"
	"sluice/libs/kafka"
	"sluice/libs/playground/kafka/realkafka"
)

const (
	committed   = controlv1.Isolation_READ_COMMITTED
	uncommitted = controlv1.Isolation_READ_UNCOMMITTED
)

func within(t testing.TB, d time.Duration) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), d)
	t.Cleanup(cancel)
	return ctx
}

func source(addr, topic string) *controlv1.KafkaSource {
	return &controlv1.KafkaSource{Brokers: []string{addr}, Topic: topic}
}

func open(t testing.TB, s *controlv1.KafkaSource) *kafka.Cluster {
	t.Helper()
	c, err := kafka.Open(within(t, time.Minute), s, "sluice-test")
	require.NoError(t, err)
	t.Cleanup(c.Close)
	return c
}

func client(t testing.TB, addr string, options ...kgo.Opt) *kgo.Client {
	t.Helper()
	c, err := kgo.NewClient(append(options, kgo.SeedBrokers(addr), kgo.RecordPartitioner(kgo.ManualPartitioner()),
		kgo.ProducerBatchMaxBytes(64<<20), kgo.BrokerMaxWriteBytes(128<<20))...)
	require.NoError(t, err)
	t.Cleanup(c.Close)
	return c
}

func createTopic(t testing.TB, c *kgo.Client, topic string, partitions int32, config map[string]*string) {
	t.Helper()
	require.NoError(t, realkafka.CreateTopic(within(t, time.Minute), kadm.NewClient(c), topic, partitions, config))
}

func produce(t testing.TB, c *kgo.Client, topic string, partition int32, values ...string) {
	t.Helper()
	for _, v := range values {
		r := &kgo.Record{Topic: topic, Partition: partition, Value: []byte(v)}
		require.NoError(t, c.ProduceSync(within(t, time.Minute), r).FirstErr())
	}
}

// transact writes the values as one transaction: two offsets more than values when it is ended, one for the marker.
func transact(t testing.TB, c *kgo.Client, topic string, end kgo.TransactionEndTry, values ...string) {
	t.Helper()
	ctx := within(t, time.Minute)
	require.NoError(t, c.BeginTransaction())
	produce(t, c, topic, 0, values...)
	require.NoError(t, c.Flush(ctx))
	require.NoError(t, c.EndTransaction(ctx, end))
}

// onceThen makes a control function for the fake broker that only calls f, at the first request.
func onceThen(f func()) func(kmsg.Request) (kmsg.Response, error, bool) {
	var once sync.Once
	return func(kmsg.Request) (kmsg.Response, error, bool) {
		once.Do(f)
		return nil, nil, false
	}
}
