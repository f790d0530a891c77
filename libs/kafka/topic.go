package kafka

import (
	"context"
	"errors"
	"fmt"

	"github.com/IBM/sarama"
)

// Topic is a topic as it is now.
type Topic struct {
	// ID is new each time a topic of the name is created. Zero where the brokers give none (before Kafka 2.8).
	ID [16]byte
	// Partitions in ascending order.
	Partitions []int32
}

// Topic asks the cluster for the topic; ErrNoTopic when there is none. The answer comes from the leader of a
// partition, which cannot serve records of a later topic of that name before it knows the id.
func (c *Cluster) Topic(ctx context.Context, name string) (Topic, error) {
	return do(ctx, c, "describe topic "+name, func() (t Topic, err error) {
		err = c.retry(ctx, name, func() error {
			t, err = c.topic(name)
			return err
		})
		return t, noTopic(err)
	})
}

func (c *Cluster) topic(name string) (Topic, error) {
	partitions, err := c.client.Partitions(name)
	if err != nil {
		return Topic{}, err
	}
	if len(partitions) == 0 {
		return Topic{}, sarama.ErrLeaderNotAvailable
	}
	leader, err := c.client.Leader(name, partitions[0])
	if err != nil {
		return Topic{}, err
	}
	request := sarama.NewMetadataRequest(c.client.Config().Version, []string{name})
	response, err := ask(leader, func() (*sarama.MetadataResponse, error) { return leader.GetMetadata(request) })
	if err != nil {
		return Topic{}, err
	}
	for _, t := range response.Topics {
		if t.Name != name {
			continue
		}
		if !errors.Is(t.Err, sarama.ErrNoError) {
			return Topic{}, t.Err
		}
		found := Topic{ID: t.Uuid}
		for _, p := range t.Partitions {
			found.Partitions = append(found.Partitions, p.ID)
		}
		sortInt32(found.Partitions)
		return found, nil
	}
	return Topic{}, fmt.Errorf("topic %s: %w", name, sarama.ErrIncompleteResponse)
}

// noTopic translates sarama's words for a missing topic.
func noTopic(err error) error {
	if errors.Is(err, sarama.ErrUnknownTopicOrPartition) {
		return fmt.Errorf("%w: %w", ErrNoTopic, sarama.ErrUnknownTopicOrPartition)
	}
	return err
}
