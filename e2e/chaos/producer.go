package main

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
)

const (
	topic      = "events"
	partitions = 4
	tick       = 10 * time.Millisecond
)

// Producer writes the feed to Kafka at a steady rate, through whatever happens to Kafka.
type Producer struct {
	client *kgo.Client
	feed   *Feed
	rate   int // events a second

	sent, acked atomic.Uint64

	mu  sync.Mutex
	err error // guarded by mu: the first that a record met
}

func newProducer(ctx context.Context, addr string, seed uint64, rate int) (*Producer, error) {
	client, err := kgo.NewClient(kgo.SeedBrokers(addr), kgo.DefaultProduceTopic(topic),
		kgo.RecordPartitioner(kgo.ManualPartitioner()), kgo.MaxBufferedRecords(100_000),
		kgo.UnknownTopicRetries(-1), // a broker that has just restarted may not know it yet
		kgo.ProducerLinger(2*time.Millisecond))
	if err != nil {
		return nil, fmt.Errorf("make a producer: %w", err)
	}
	if _, err := kadm.NewClient(client).CreateTopic(ctx, partitions, 1, nil, topic); err != nil {
		client.Close()
		return nil, fmt.Errorf("make topic %s: %w", topic, err)
	}
	return &Producer{client: client, feed: newFeed(seed), rate: rate}, nil
}

// Run sends until stop is closed; then it waits until Kafka has everything.
func (p *Producer) Run(ctx context.Context, stop <-chan struct{}) error {
	ticker := time.NewTicker(tick)
	defer ticker.Stop()
	owed := 0.0
	for {
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-stop:
			if err := p.client.Flush(ctx); err != nil {
				return fmt.Errorf("hand everything to Kafka: %w", err)
			}
			p.mu.Lock()
			defer p.mu.Unlock()
			return p.err
		case <-ticker.C:
		}
		for owed += float64(p.rate) * tick.Seconds(); owed >= 1; owed-- {
			p.send(ctx, p.feed.Next())
		}
	}
}

func (p *Producer) send(ctx context.Context, e Event) {
	p.sent.Add(1)
	r := &kgo.Record{Partition: e.Partition(partitions), Key: e.Key(), Value: e.JSON()}
	p.client.Produce(ctx, r, func(_ *kgo.Record, err error) {
		if err == nil {
			p.acked.Add(1)
			return
		}
		p.mu.Lock()
		defer p.mu.Unlock()
		if p.err == nil {
			p.err = fmt.Errorf("produce event %d, copy %d: %w", e.ID, e.N, err)
		}
	})
}
