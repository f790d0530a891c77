package main

import (
	"context"
	"fmt"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
)

// Place is where Kafka holds a record.
type Place struct {
	Partition int32
	Offset    int64
}

// Copy is one record of an event.
type Copy struct {
	N uint64
	Place
}

// Truth is what Kafka holds: the only thing that the table is compared with.
type Truth struct {
	Records uint64
	// First occurrence by id; N is 0 where there is none.
	First []Copy
	// Twice: records that Kafka holds twice, from a producer's retry. Events like any other.
	Twice uint64
}

// IDs is the number of different events.
func (t *Truth) IDs() (n uint64) {
	for _, c := range t.First {
		if c.N != 0 {
			n++
		}
	}
	return n
}

// each calls f with every record of the topic, in the order of its partition.
func each(ctx context.Context, addr string, f func(Event, Place)) error {
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
			e, err := parseEvent(r.Value)
			if err != nil && bad == nil {
				bad = fmt.Errorf("partition %d, offset %d: %w", r.Partition, r.Offset, err)
			}
			f(e, Place{r.Partition, r.Offset})
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

// readTruth reads the topic. sent is how many records were handed over and acknowledged.
func readTruth(ctx context.Context, addr string, sent uint64) (*Truth, error) {
	t := &Truth{}
	seen := make([]bool, sent+1)
	err := each(ctx, addr, func(e Event, p Place) {
		t.Records++
		for uint64(len(t.First)) <= e.ID {
			t.First = append(t.First, Copy{})
		}
		if t.First[e.ID].N == 0 {
			t.First[e.ID] = Copy{e.N, p}
		}
		if e.N < uint64(len(seen)) {
			if seen[e.N] {
				t.Twice++
			}
			seen[e.N] = true
		}
	})
	if err != nil {
		return nil, err
	}
	for n := uint64(1); n <= sent; n++ {
		if !seen[n] {
			return nil, fmt.Errorf("kafka itself has lost record %d, which it had acknowledged: this run proves nothing", n)
		}
	}
	return t, nil
}

// copies returns all records of some events.
func copies(ctx context.Context, addr string, ids map[uint64]bool) (map[uint64][]Copy, error) {
	out := map[uint64][]Copy{}
	err := each(ctx, addr, func(e Event, p Place) {
		if ids[e.ID] {
			out[e.ID] = append(out[e.ID], Copy{e.N, p})
		}
	})
	return out, err
}
