package main

import (
	"context"
	"fmt"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
)

// Place is where Kafka holds a record of a topic.
type Place struct {
	Partition int32
	Offset    int64
}

// each calls f with every record of a topic, in the order of its partition. f's error ends it.
func each(ctx context.Context, addr, topic string, f func([]byte, Place) error) error {
	client, err := kgo.NewClient(kgo.SeedBrokers(addr))
	if err != nil {
		return fmt.Errorf("read Kafka: %w", err)
	}
	defer client.Close()
	ends, err := kadm.NewClient(client).ListEndOffsets(ctx, topic)
	if err == nil {
		err = ends.Error()
	}
	if err != nil {
		return fmt.Errorf("read the ends of topic %s: %w", topic, err)
	}
	left := map[int32]int64{}
	from := map[int32]kgo.Offset{}
	ends.Each(func(o kadm.ListedOffset) {
		from[o.Partition] = kgo.NewOffset().At(0)
		if o.Offset > 0 {
			left[o.Partition] = o.Offset
		}
	})
	client.AddConsumePartitions(map[string]map[int32]kgo.Offset{topic: from})
	for len(left) > 0 {
		poll, cancel := context.WithTimeout(ctx, time.Minute)
		fetches := client.PollFetches(poll)
		cancel()
		if err := fetches.Err(); err != nil {
			return fmt.Errorf("read topic %s: %w", topic, err)
		}
		var bad error
		fetches.EachRecord(func(r *kgo.Record) {
			if bad != nil {
				return
			}
			if err := f(r.Value, Place{r.Partition, r.Offset}); err != nil {
				bad = fmt.Errorf("topic %s, partition %d, offset %d: %w", topic, r.Partition, r.Offset, err)
			}
			if r.Offset+1 >= left[r.Partition] {
				delete(left, r.Partition)
			}
		})
		if bad != nil {
			return bad
		}
	}
	return nil
}

// acknowledged notes which of the records that Kafka has acknowledged it holds.
type acknowledged struct {
	seen  []bool // by number
	twice uint64
}

func newAcknowledged(sent uint64) *acknowledged { return &acknowledged{seen: make([]bool, sent+1)} }

func (a *acknowledged) add(n uint64) {
	if n >= uint64(len(a.seen)) {
		return
	}
	if a.seen[n] {
		a.twice++
	}
	a.seen[n] = true
}

// whole is an error if a record is missing.
func (a *acknowledged) whole() error {
	for n := 1; n < len(a.seen); n++ {
		if !a.seen[n] {
			return fmt.Errorf("kafka itself has lost record %d, which it had acknowledged: this run proves nothing", n)
		}
	}
	return nil
}
