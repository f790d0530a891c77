package kafka

import (
	"context"
	"errors"
	"fmt"
	"iter"

	"github.com/IBM/sarama"

	controlv1 "sluice/gen/sluice/control/v1"
)

// Records reads the records of a partition in [from, to) that a consumer of that isolation gets to see, in the order of their
// offsets. What Kafka no longer has is passed over: the first record then has a higher offset than from. It ends with an
// error, of which there is at most one, or behind the last record. A record's memory may be kept.
func (c *Cluster) Records(ctx context.Context, topic string, partition int32, from, to int64, i controlv1.Isolation) iter.Seq2[*sarama.ConsumerMessage, error] {
	return func(yield func(*sarama.ConsumerMessage, error) bool) {
		attempt := fmt.Sprintf("read topic %s, partition %d, from offset %d", topic, partition, from)
		for from < to {
			seen, err := do(ctx, c, attempt, func() (seen []*sarama.ConsumerMessage, err error) {
				err = c.retry(ctx, topic, func() error {
					seen, from, err = c.step(topic, partition, from, isolation(i))
					return err
				})
				return seen, noTopic(err)
			})
			if err != nil {
				yield(nil, err)
				return
			}
			for _, m := range seen {
				if m.Offset >= to {
					return
				}
				if !yield(m, nil) {
					return
				}
			}
		}
	}
}

// step fetches once and returns where to go on: always behind from.
func (c *Cluster) step(topic string, partition int32, from int64, i sarama.IsolationLevel) (seen []*sarama.ConsumerMessage, next int64, err error) {
	block, err := c.fetch(topic, partition, from, fetchBytes, i)
	if errors.Is(err, sarama.ErrOffsetOutOfRange) {
		earliest, err := c.listOnce(topic, sarama.OffsetOldest, i)
		switch {
		case err != nil:
			return nil, from, err
		case from < earliest[partition]:
			return nil, earliest[partition], nil
		}
		return nil, from, fmt.Errorf("offset %d: %w", from, ErrBeyondEnd)
	}
	if err != nil {
		return nil, from, err
	}
	seen, next, err = records(topic, partition, block, from, i)
	if err != nil {
		return nil, from, err
	}
	if next == from && from >= end(block, i) {
		return nil, from, fmt.Errorf("offset %d: %w", from, ErrBeyondEnd)
	}
	return seen, max(next, from+1), nil // at least one, past batches that compaction has emptied
}
