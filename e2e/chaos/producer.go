package main

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"sluice/libs/playground/kafka/realkafka"
)

const tick = 10 * time.Millisecond

// Producer writes the records of a job to Kafka at a steady rate, through whatever happens to Kafka.
type Producer struct {
	client *kgo.Client
	job    Job
	rate   int // events a second

	sent, acked atomic.Uint64

	mu  sync.Mutex
	err error // guarded by mu: the first that a record met
}

func newProducer(ctx context.Context, addr string, job Job, rate int) (*Producer, error) {
	client, err := kgo.NewClient(kgo.SeedBrokers(addr),
		kgo.RecordPartitioner(kgo.ManualPartitioner()), kgo.MaxBufferedRecords(100_000),
		kgo.UnknownTopicRetries(-1), // a broker that has just restarted may not know it yet
		kgo.AlwaysRetryEOF(),        // one that is just going may close a connection before its first answer
		kgo.ProducerLinger(2*time.Millisecond))
	if err != nil {
		return nil, fmt.Errorf("make a producer: %w", err)
	}
	for _, t := range job.Topics() {
		if err := realkafka.CreateTopic(ctx, kadm.NewClient(client), t.Name, t.Partitions, nil); err != nil {
			client.Close()
			return nil, err
		}
	}
	return &Producer{client: client, job: job, rate: rate}, nil
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
			if err := p.end(ctx); err != nil {
				return fmt.Errorf("hand everything to Kafka: %w", err)
			}
			p.mu.Lock()
			defer p.mu.Unlock()
			return p.err
		case <-ticker.C:
		}
		for owed += float64(p.rate) * tick.Seconds(); owed >= 1; owed-- {
			p.send(ctx, p.job.Next())
		}
	}
}

// end waits until Kafka has everything, and only then sends what ends it.
func (p *Producer) end(ctx context.Context) error {
	if err := p.client.Flush(ctx); err != nil {
		return err
	}
	for _, r := range p.job.Last() {
		p.send(ctx, r)
	}
	return p.client.Flush(ctx)
}

func (p *Producer) send(ctx context.Context, r Record) {
	p.sent.Add(1)
	record := &kgo.Record{Topic: r.Topic, Partition: r.Partition, Key: r.Key, Value: r.Value}
	p.client.Produce(ctx, record, func(_ *kgo.Record, err error) {
		if err == nil {
			p.acked.Add(1)
			return
		}
		p.mu.Lock()
		defer p.mu.Unlock()
		if p.err == nil {
			p.err = fmt.Errorf("produce %.80q: %w", r.Value, err)
		}
	})
}
