package ingestor

import (
	"context"
	"sync"
	"time"

	"github.com/IBM/sarama"

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

func (p *partition) takeBurst(ctx context.Context, msg *sarama.ConsumerMessage, more <-chan *sarama.ConsumerMessage) error {
	if err := p.checkIncarnation(ctx); err != nil {
		return err
	}
	p.drained, p.stalled = false, false
	p.lastArrival = max(p.lastArrival, time.Now().UnixMilli())
	var untold int64 // bytes of records that we have taken and not said so
	defer func() { p.taken(p.number, untold) }()
	for range burst {
		if untold += sizeOf(msg); untold >= prefetchStep {
			p.taken(p.number, untold)
			untold = 0
		}
		if err := p.take(ctx, msg); err != nil {
			return err
		}
		if p.stalled {
			return nil // time has passed: look whether the topic is still the same
		}
		select {
		case next, ok := <-more:
			if !ok {
				return nil // run sees it, too
			}
			msg = next
		default:
			p.drained = true
			return nil
		}
	}
	untold += sizeOf(msg)
	return p.take(ctx, msg)
}

// checkIncarnation finds out, before records are taken, whether they are still the same topic's. The
// consumer goes by names and would go on at the old offset in a new topic; but it is silent for its
// retry back-off whenever it loses the topic. Either that silence is seen here, or what waited in the
// consumer hides it, and then one of the looks at short intervals falls into it.
func (p *partition) checkIncarnation(ctx context.Context) error {
	now := time.Now()
	silent := now.Sub(p.lastRecord) >= silence
	if p.drained {
		p.lastSame = now // nothing waits that could hide a silence
	}
	p.lastRecord = now
	var err error
	switch {
	case silent:
		err = p.same(ctx, p.pos.id, now)
	case now.Sub(p.lastSame) >= silence/2:
		err = p.same(ctx, p.pos.id, now.Add(-silence/4)) // another partition's look will do
	default:
		return nil
	}
	p.lastSame = now
	return err
}
