package kafka

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/IBM/sarama"

	controlv1 "sluice/gen/sluice/control/v1"
)

// samplePoll is how often Sample looks again at an empty topic.
const samplePoll = 200 * time.Millisecond

// NextRecord returns the offset of the first record at or after offset that a consumer of that isolation gets to see.
// With atEnd there is none so far, and next is the end of the partition for that isolation.
//
// A consumer needs it because sarama delivers records only: it does not tell that it passed transaction markers,
// aborted transactions or compacted records, so that a position made of delivered records never reaches the end of
// such a partition. [offset, next) holds nothing readable and never will.
//
// An offset that has expired is answered from the earliest that is left; ErrBeyondEnd is the error for one past the
// end. Where compaction left batches without any record, passing them takes a request an offset.
func (c *Cluster) NextRecord(ctx context.Context, topic string, partition int32, offset int64, i controlv1.Isolation) (next int64, atEnd bool, err error) {
	type answer struct {
		next  int64
		atEnd bool
	}
	attempt := fmt.Sprintf("look for the next record of topic %s, partition %d, from offset %d", topic, partition, offset)
	a, err := do(ctx, c, attempt, func() (a answer, err error) {
		level, at := isolation(i), offset
		err = c.retry(ctx, topic, func() error { // goes on from at
			a.next, a.atEnd, err = c.next(ctx, topic, partition, &at, level)
			return err
		})
		return a, noTopic(err)
	})
	return a.next, a.atEnd, err
}

func (c *Cluster) next(ctx context.Context, topic string, partition int32, at *int64, i sarama.IsolationLevel) (int64, bool, error) {
	empty := 0                // answers without a batch, in a row, at *at
	bytes := int32(peekBytes) // more in each round: there may be much that nobody is to read
	for ; ; bytes = min(4*bytes, fetchBytes) {
		if ctx.Err() != nil {
			return 0, false, context.Cause(ctx)
		}
		block, err := c.fetch(topic, partition, *at, bytes, i)
		if errors.Is(err, sarama.ErrOffsetOutOfRange) {
			earliest, err := c.listOnce(topic, sarama.OffsetOldest, i)
			if err != nil {
				return 0, false, err
			}
			if *at >= earliest[partition] {
				return 0, false, fmt.Errorf("offset %d: %w", *at, ErrBeyondEnd)
			}
			*at, empty = earliest[partition], 0
			continue
		}
		if err != nil {
			return 0, false, err
		}
		seen, behind, err := records(topic, partition, block, *at, i)
		switch {
		case err != nil:
			return 0, false, err
		case len(seen) > 0:
			return seen[0].Offset, false, nil
		case behind > *at:
			*at, empty = behind, 0
		case *at >= end(block, i):
			return *at, true, nil
		default:
			// Before the end and yet no batch: sarama drops batches that compaction has emptied, and does not say
			// where they end. Ask twice before believing it, as the price of an error would be a lost record.
			if empty++; empty > 1 {
				*at, empty = *at+1, 0
			}
		}
	}
}

// Record returns one record as it stands in the log, also that of an aborted transaction. ErrGone when there is none.
func (c *Cluster) Record(ctx context.Context, topic string, partition int32, offset int64) (*sarama.ConsumerMessage, error) {
	attempt := fmt.Sprintf("read the record of topic %s, partition %d, offset %d", topic, partition, offset)
	return do(ctx, c, attempt, func() (m *sarama.ConsumerMessage, err error) {
		err = c.retry(ctx, topic, func() error {
			block, err := c.fetch(topic, partition, offset, peekBytes, sarama.ReadUncommitted)
			if errors.Is(err, sarama.ErrOffsetOutOfRange) {
				return ErrGone
			}
			if err != nil {
				return err
			}
			seen, _, err := records(topic, partition, block, offset, sarama.ReadUncommitted)
			if err != nil {
				return err
			}
			if len(seen) == 0 || seen[0].Offset != offset {
				return ErrGone
			}
			m = seen[0]
			return nil
		})
		return m, noTopic(err)
	})
}

// Sample returns up to n of the newest committed records of a topic, from all partitions, oldest first. While the
// topic is empty it waits for a record, until the timeout; then it returns none and no error.
func (c *Cluster) Sample(ctx context.Context, topic string, n int, timeout time.Duration) ([]*sarama.ConsumerMessage, error) {
	return do(ctx, c, "sample topic "+topic, func() (found []*sarama.ConsumerMessage, err error) {
		deadline := time.Now().Add(timeout)
		for {
			err = c.retry(ctx, topic, func() error {
				found, err = c.sample(ctx, topic, n)
				return err
			})
			if err != nil || len(found) > 0 || !time.Now().Add(samplePoll).Before(deadline) {
				return found, noTopic(err)
			}
			select {
			case <-time.After(samplePoll):
			case <-ctx.Done():
				return nil, context.Cause(ctx)
			}
		}
	})
}

func (c *Cluster) sample(ctx context.Context, topic string, n int) ([]*sarama.ConsumerMessage, error) {
	earliest, err := c.listOnce(topic, sarama.OffsetOldest, sarama.ReadCommitted)
	if err != nil {
		return nil, err
	}
	ends, err := c.listOnce(topic, sarama.OffsetNewest, sarama.ReadCommitted)
	if err != nil {
		return nil, err
	}
	var found []*sarama.ConsumerMessage
	for p, end := range ends {
		// Not every offset holds a record: look further back until there are enough.
		for back := int64(n); ; back *= 8 {
			from := max(end-back, earliest[p])
			seen, err := c.span(ctx, topic, p, from, end)
			if err != nil {
				return nil, err
			}
			if len(seen) >= n || from == earliest[p] {
				found = append(found, seen[max(0, len(seen)-n):]...)
				break
			}
		}
	}
	slices.SortFunc(found, func(a, b *sarama.ConsumerMessage) int {
		return cmp.Or(a.Timestamp.Compare(b.Timestamp), cmp.Compare(a.Partition, b.Partition), cmp.Compare(a.Offset, b.Offset))
	})
	return found[max(0, len(found)-n):], nil
}

// span reads the committed records in [from, to).
func (c *Cluster) span(ctx context.Context, topic string, partition int32, from, to int64) ([]*sarama.ConsumerMessage, error) {
	var found []*sarama.ConsumerMessage
	for from < to {
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		block, err := c.fetch(topic, partition, from, fetchBytes, sarama.ReadCommitted)
		if errors.Is(err, sarama.ErrOffsetOutOfRange) {
			return found, nil // expired, or made anew, meanwhile: a sample of what was there will do
		}
		if err != nil {
			return nil, err
		}
		seen, behind, err := records(topic, partition, block, from, sarama.ReadCommitted)
		if err != nil {
			return nil, err
		}
		for _, m := range seen {
			if m.Offset < to {
				found = append(found, m)
			}
		}
		from = max(behind, from+1) // at least one, past batches that compaction has emptied
	}
	return found, nil
}
