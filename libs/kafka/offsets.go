package kafka

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/IBM/sarama"

	controlv1 "sluice/gen/sluice/control/v1"
)

// EarliestOffsets returns the offset of the first record that each partition still has, or would have.
func (c *Cluster) EarliestOffsets(ctx context.Context, topic string) (map[int32]int64, error) {
	return c.list(ctx, "list earliest offsets of topic "+topic, topic, sarama.OffsetOldest, sarama.ReadUncommitted)
}

// EndOffsets returns the offset where each partition ends for a consumer of that isolation: for READ_COMMITTED (also
// unspecified) the last stable offset, before the first transaction still open.
func (c *Cluster) EndOffsets(ctx context.Context, topic string, i controlv1.Isolation) (map[int32]int64, error) {
	return c.list(ctx, "list end offsets of topic "+topic, topic, sarama.OffsetNewest, isolation(i))
}

// OffsetsAt returns, for each partition, the offset of the first record whose timestamp is at or after t; the end of
// the partition where there is none.
func (c *Cluster) OffsetsAt(ctx context.Context, topic string, t time.Time) (map[int32]int64, error) {
	attempt := "list offsets of topic " + topic + " at " + t.UTC().Format(time.RFC3339Nano)
	// The ends come first: a record written meanwhile is then found by its time or lies at or behind the end.
	ends, err := c.list(ctx, attempt, topic, sarama.OffsetNewest, sarama.ReadUncommitted)
	if err != nil {
		return nil, err
	}
	// Times before 1970 would be taken for the special values.
	at, err := c.list(ctx, attempt, topic, max(t.UnixMilli(), 0), sarama.ReadUncommitted)
	if err != nil {
		return nil, err
	}
	for p, o := range at {
		if o < 0 {
			at[p] = ends[p] // zero for a partition made in between: its start
		}
	}
	return at, nil
}

func (c *Cluster) list(ctx context.Context, attempt, topic string, at int64, i sarama.IsolationLevel) (map[int32]int64, error) {
	return do(ctx, c, attempt, func() (offsets map[int32]int64, err error) {
		err = c.retry(ctx, topic, func() error {
			offsets, err = c.listOnce(topic, at, i)
			return err
		})
		return offsets, noTopic(err)
	})
}

// listOnce asks each leader once for all its partitions.
func (c *Cluster) listOnce(topic string, at int64, i sarama.IsolationLevel) (map[int32]int64, error) {
	partitions, err := c.client.Partitions(topic)
	if err != nil {
		return nil, err
	}
	led := map[*sarama.Broker][]int32{}
	for _, p := range partitions {
		leader, err := c.client.Leader(topic, p)
		if err != nil {
			return nil, err
		}
		led[leader] = append(led[leader], p)
	}
	offsets := make(map[int32]int64, len(partitions))
	for leader, partitions := range led {
		request := sarama.NewOffsetRequest(c.client.Config().Version)
		request.IsolationLevel = i
		for _, p := range partitions {
			request.AddBlock(topic, p, at, 1)
		}
		response, err := ask(leader, func() (*sarama.OffsetResponse, error) { return leader.GetAvailableOffsets(request) })
		if err != nil {
			return nil, err
		}
		for _, p := range partitions {
			block := response.GetBlock(topic, p)
			if block == nil {
				return nil, missing(topic, p)
			}
			if !errors.Is(block.Err, sarama.ErrNoError) {
				return nil, block.Err
			}
			offsets[p] = block.Offset
		}
	}
	return offsets, nil
}

func sortInt32(s []int32) { slices.Sort(s) }
