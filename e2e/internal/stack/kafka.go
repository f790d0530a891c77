//go:build unix

package stack

import (
	"context"
	"hash/fnv"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"sluice/libs/playground/kafka/realkafka"
)

// Producer writes to one topic. Records go to the partition that is given with them.
type Producer struct {
	Admin *kadm.Client

	t      testing.TB
	client *kgo.Client
	topic  string
	mu     sync.Mutex
	err    error // guarded by mu: the first that a record met
}

// NewProducer makes the topic and a producer for it. opts are for secured brokers.
func NewProducer(t testing.TB, addr, topic string, partitions int32, opts ...kgo.Opt) *Producer {
	t.Helper()
	client, err := kgo.NewClient(append(opts, kgo.SeedBrokers(addr), kgo.DefaultProduceTopic(topic),
		kgo.RecordPartitioner(kgo.ManualPartitioner()), kgo.ProducerBatchMaxBytes(16<<20), kgo.MaxBufferedRecords(50_000))...)
	require.NoError(t, err)
	t.Cleanup(client.Close)
	p := &Producer{Admin: kadm.NewClient(client), t: t, client: client, topic: topic}
	size := "16777216"
	ctx, cancel := context.WithTimeout(t.Context(), Up)
	defer cancel()
	Await(t, Up, "topic "+topic+" is made", func() (bool, any) {
		err := realkafka.CreateTopic(ctx, p.Admin, topic, partitions, map[string]*string{"max.message.bytes": &size})
		return err == nil, err
	})
	return p
}

// Send hands a record to the client. Records of one partition keep their order.
func (p *Producer) Send(partition int32, key, value []byte) {
	p.SendRecord(&kgo.Record{Partition: partition, Key: key, Value: value})
}

// SendRecord is Send for a record with more than key and value.
func (p *Producer) SendRecord(r *kgo.Record) {
	r.Topic = p.topic
	p.client.Produce(p.t.Context(), r, func(_ *kgo.Record, err error) {
		p.mu.Lock()
		defer p.mu.Unlock()
		if p.err == nil {
			p.err = err
		}
	})
}

// Flush returns once Kafka has everything that was sent.
func (p *Producer) Flush() {
	p.t.Helper()
	require.NoError(p.t, p.client.Flush(p.t.Context()))
	p.mu.Lock()
	defer p.mu.Unlock()
	require.NoError(p.t, p.err)
}

// PartitionOf spreads keys over n partitions: equal keys meet in one, so that one of them is the first.
func PartitionOf(key string, n int32) int32 {
	h := fnv.New32a()
	_, _ = h.Write([]byte(key)) // never fails
	return int32(h.Sum32() % uint32(n))
}
