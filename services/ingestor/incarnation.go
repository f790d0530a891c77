package ingestor

import (
	"context"
	"sync"
	"time"

	"sluice/libs/kafka"
)

// incarnation knows the id of a topic as it was at some moment, for all partitions of a session.
type incarnation struct {
	cluster *kafka.Cluster
	topic   string

	mu    sync.Mutex
	began time.Time // guarded by mu; when Kafka was last asked
	id    topicID   // guarded by mu; what it said
}

// same makes sure that the topic still had that id at since, or later. It fails with errTopicChanged
// when it has another.
func (i *incarnation) same(ctx context.Context, id topicID, since time.Time) error {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.began.Before(since) || i.id != id {
		began := time.Now()
		topic, err := i.cluster.Topic(ctx, i.topic)
		if err != nil {
			return err
		}
		i.began, i.id = began, topic.ID
	}
	if i.id != id {
		return errTopicChanged
	}
	return nil
}

// holdLarge waits until there is memory for so many bytes.
func (s *Service) holdLarge(ctx context.Context, bytes int) (release func(), err error) {
	n := min(int64(bytes), largeBudget)
	if err := s.large.Acquire(ctx, n); err != nil {
		return nil, context.Cause(ctx)
	}
	return func() { s.large.Release(n) }, nil
}
