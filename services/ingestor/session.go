package ingestor

import (
	"context"
	"fmt"
	"sync"

	"github.com/IBM/sarama"
	"golang.org/x/sync/errgroup"

	controlv1 "sluice/gen/sluice/control/v1"
	"sluice/libs/kafka"
	"sluice/libs/rows"
	"sluice/libs/spec"
)

// session is one generation of the consumer group, as far as this instance is assigned partitions.
type session struct {
	service  *Service
	rec      *controlv1.PipelineRecord
	branch   spec.Branch
	branches int // of the pipeline
	cluster  *kafka.Cluster
	plan     *rows.Plan
	ends     *ends // nil where nobody goes by how far partitions have come
	prefetch *prefetch
	words    *words        // nil until Setup
	ended    chan struct{} // closed by Cleanup

	incarnation incarnation

	mu         sync.Mutex
	group      []int32            // fixed by Setup; the partitions that are ours
	partitions map[int32]*claimed // guarded by mu until Setup is done, then fixed
	failed     error              // guarded by mu; the first failure that is not the end of the session
}

type claimed struct {
	partition   *partition
	status      *unit
	checkpoints chan chan<- error
	done        chan struct{} // closed when run has returned; never when it was not begun
}

func (s *session) fail(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.failed == nil && err != nil {
		s.failed = err
	}
}

// unread tells, after the session, that a claim was never begun.
func (s *session) unread() bool {
	for _, c := range s.partitions {
		select {
		case <-c.done:
		default:
			return true
		}
	}
	return false
}

func (s *session) failure() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.failed
}

// Setup becomes the writer of every assigned partition and tells Kafka's client where to read on:
// where the logs say, not where the group's offsets do.
func (s *session) Setup(group sarama.ConsumerGroupSession) error {
	topic := s.branch.Spec.GetKafka().GetTopic()
	numbers := group.Claims()[topic]
	ctx := group.Context()
	s.group = numbers
	s.prefetch.begin(numbers)
	err := func() error {
		if len(numbers) == 0 {
			return nil
		}
		info, err := s.cluster.Topic(ctx, topic)
		if err != nil {
			return err
		}
		earliest, err := s.cluster.EarliestOffsets(ctx, topic)
		if err != nil {
			return err
		}
		ends, err := s.cluster.EndOffsets(ctx, topic, controlv1.Isolation_READ_UNCOMMITTED)
		if err != nil {
			return err
		}
		committed, err := s.cluster.CommittedOffsets(ctx, s.branch.Spec.GetKafka().GetGroup(), topic)
		if err != nil {
			if ctx.Err() != nil {
				return err
			}
			s.service.log.Warn("the offsets that the group has committed cannot be read: that the log had been further would not be noticed", "topic", topic, "error", err)
		}
		words := newWords(s.rec.GetSpec().GetId(), committed, len(ends), numbers)
		s.words = words
		opening, openingCtx := errgroup.WithContext(ctx)
		for _, number := range numbers {
			opening.Go(func() error {
				c, err := s.claim(openingCtx, topic, number, len(ends), bounds{info.ID, earliest[number], ends[number], committed[number]})
				if err != nil {
					return fmt.Errorf("partition %d of %s: %w", number, topic, err)
				}
				next, seen := c.partition.pos.next, c.partition.pos.seen
				c.partition.marked, c.partition.words = next, words.wake[number]
				c.partition.mark = func(offset int64) {
					note := kafka.Note(s.rec.GetSpec().GetId(), info.ID, max(offset, seen), words.of(number)...)
					// One of the two moves the group's offset, whichever way it has to go, or its note.
					group.ResetOffset(topic, number, offset, note)
					group.MarkOffset(topic, number, offset, note)
				}
				c.partition.mark(next)
				return nil
			})
		}
		if err := opening.Wait(); err != nil {
			return err
		}
		// Only now: who opened a log has waited until NATS answers.
		if err := words.listen(ctx, s); err != nil {
			if ctx.Err() != nil {
				return err
			}
			s.service.log.Warn("how far the sink has come cannot be read: Kafka's group is told with the next blocks", "topic", topic, "error", err)
		}
		return nil
	}()
	if err != nil {
		if ctx.Err() == nil {
			s.fail(err)
		}
		return err // Cleanup follows
	}
	s.service.mu.Lock()
	s.service.active[s] = struct{}{}
	s.service.mu.Unlock()
	return nil
}

// ConsumeClaim reads one partition until the session ends.
func (s *session) ConsumeClaim(group sarama.ConsumerGroupSession, claim sarama.ConsumerGroupClaim) error {
	c := s.partitions[claim.Partition()]
	defer close(c.done)
	err := c.partition.run(group.Context(), claim, c.checkpoints)
	if err != nil {
		c.status.waiting(err)
	}
	if err != nil && group.Context().Err() == nil {
		s.fail(err)
	}
	return err
}

// Cleanup gives up the partitions, after all claims have ended.
func (s *session) Cleanup(group sarama.ConsumerGroupSession) error {
	s.service.mu.Lock()
	delete(s.service.active, s)
	s.service.mu.Unlock()
	close(s.ended)
	s.words.end()
	// At once: where NATS is down, each takes as long as it may, and the group waits for us.
	var disowning sync.WaitGroup
	for _, c := range s.partitions {
		disowning.Go(func() { s.service.board.disown(context.WithoutCancel(group.Context()), c.status) })
	}
	disowning.Wait()
	return nil
}

// checkpoint settles every partition of the session.
func (s *session) checkpoint(ctx context.Context) (int, error) {
	units := 0
	for _, c := range s.partitions {
		reply := make(chan error, 1)
		select {
		case c.checkpoints <- reply:
		case <-c.done:
			continue
		case <-s.ended: // a claim need not have been begun
			continue
		case <-ctx.Done():
			return units, context.Cause(ctx)
		}
		select {
		case err := <-reply:
			if err != nil {
				return units, err
			}
			units++
		case <-ctx.Done():
			return units, context.Cause(ctx)
		}
	}
	return units, nil
}
