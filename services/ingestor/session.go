package ingestor

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"time"

	"github.com/IBM/sarama"
	"golang.org/x/sync/errgroup"

	controlv1 "sluice/gen/sluice/control/v1"
	"sluice/libs/batch"
	"sluice/libs/fencedlog"
	"sluice/libs/kafka"
	"sluice/services/ingestor/internal/rows"
)

const (
	firstRetry = 200 * time.Millisecond
	lastRetry  = 5 * time.Second
)

// runPipeline reads a pipeline's topic until ctx ends. Whatever goes wrong is shown and tried again.
func (s *Service) runPipeline(ctx context.Context, rec *controlv1.PipelineRecord) {
	log := s.log.With("pipeline", rec.GetSpec().GetId())
	for retry := firstRetry; ctx.Err() == nil; {
		began := time.Now()
		err := s.consume(ctx, rec)
		if ctx.Err() != nil {
			return
		}
		if time.Since(began) > 30*time.Second {
			retry = firstRetry
		}
		if err == nil || errors.Is(err, errTopicChanged) {
			continue
		}
		log.Warn("reading from Kafka is interrupted", "error", err, "retry", retry)
		s.board.trouble(ctx, rec, err)
		select {
		case <-ctx.Done():
		case <-time.After(retry):
		}
		retry = min(2*retry, lastRetry)
	}
}

// consume joins the consumer group and reads until ctx ends or something fails.
func (s *Service) consume(ctx context.Context, rec *controlv1.PipelineRecord) error {
	source := rec.GetSpec().GetSource().GetKafka()
	config, err := kafka.Config(source, s.deps.Instance)
	if err != nil {
		return err
	}
	plan, err := rows.NewPlan(current(rec).GetColumns(), rec.GetSpec().GetDedup())
	if err != nil {
		return err
	}
	cluster, err := kafka.Open(ctx, source, s.deps.Instance)
	if err != nil {
		return err
	}
	defer cluster.Close()
	group, err := sarama.NewConsumerGroup(source.GetBrokers(), source.GetGroup(), config)
	if err != nil {
		return fmt.Errorf("source.kafka.brokers %v: join consumer group %s: %w", source.GetBrokers(), source.GetGroup(), err)
	}
	var drained sync.WaitGroup
	drained.Go(func() {
		for err := range group.Errors() {
			s.log.Info("kafka consumer", "pipeline", rec.GetSpec().GetId(), "error", err)
		}
	})
	defer drained.Wait()
	defer group.Close()
	for ctx.Err() == nil {
		session := &session{service: s, rec: rec, cluster: cluster, plan: plan, partitions: map[int32]*claimed{}}
		err := group.Consume(ctx, []string{source.GetTopic()}, session)
		if failed := session.failure(); failed != nil {
			return failed
		}
		if err != nil {
			return fmt.Errorf("consumer group %s: %w", source.GetGroup(), err)
		}
	}
	return nil
}

func current(rec *controlv1.PipelineRecord) *controlv1.Schema {
	if n := len(rec.GetSchemas()); n > 0 {
		return rec.GetSchemas()[n-1]
	}
	return nil
}

// session is one generation of the consumer group, as far as this instance is assigned partitions.
type session struct {
	service *Service
	rec     *controlv1.PipelineRecord
	cluster *kafka.Cluster
	plan    *rows.Plan

	mu         sync.Mutex
	partitions map[int32]*claimed // guarded by mu until Setup is done, then fixed
	failed     error              // guarded by mu; the first failure that is not the end of the session
}

type claimed struct {
	partition   *partition
	status      *unit
	checkpoints chan chan<- error
	done        chan struct{} // closed when run has returned
}

func (s *session) fail(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.failed == nil && err != nil {
		s.failed = err
	}
}

func (s *session) failure() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.failed
}

// Setup becomes the writer of every assigned partition and tells Kafka's client where to read on:
// where the logs say, not where the group's offsets do.
func (s *session) Setup(group sarama.ConsumerGroupSession) error {
	topic := s.rec.GetSpec().GetSource().GetKafka().GetTopic()
	numbers := group.Claims()[topic]
	ctx := group.Context()
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
		var opening errgroup.Group
		for _, number := range numbers {
			opening.Go(func() error {
				c, err := s.claim(ctx, topic, number, info.ID, earliest[number])
				if err != nil {
					return fmt.Errorf("partition %d of %s: %w", number, topic, err)
				}
				next := c.partition.pos.next
				c.partition.mark = func(offset int64) { group.MarkOffset(topic, number, offset, "") }
				// One of the two moves the group's offset, whichever way it has to go.
				group.ResetOffset(topic, number, next, "")
				group.MarkOffset(topic, number, next, "")
				return nil
			})
		}
		return opening.Wait()
	}()
	if err != nil {
		if ctx.Err() == nil {
			s.fail(err)
		}
		s.disown(context.WithoutCancel(ctx))
		return err
	}
	s.service.mu.Lock()
	s.service.active[s] = struct{}{}
	s.service.mu.Unlock()
	return nil
}

// claim becomes the writer of one partition.
func (s *session) claim(ctx context.Context, topic string, number int32, id topicID, earliest int64) (*claimed, error) {
	deps, spec := s.service.deps, s.rec.GetSpec()
	status := s.service.board.own(s.rec, number)
	c := &claimed{status: status, checkpoints: make(chan chan<- error), done: make(chan struct{})}
	s.mu.Lock()
	s.partitions[number] = c
	s.mu.Unlock()

	lanes := make([]int, spec.GetLanes())
	for i := range lanes {
		lanes[i] = i
	}
	ingestLog := fencedlog.Log{Pipeline: spec.GetId(), Stage: fencedlog.Ingest}
	lettersLog := fencedlog.Log{Pipeline: spec.GetId(), Stage: fencedlog.DeadLetters}
	writer, recovered, err := fencedlog.Open(ctx, deps.JS, ingestLog, strconv.Itoa(int(number)), fencedlog.Options{Lanes: lanes, Wait: status.waiting})
	if err != nil {
		return nil, err
	}
	dead, err := fencedlog.LastPosition(ctx, deps.JS, lettersLog, lettersLane, lettersWriter(number))
	if err != nil {
		return nil, err
	}
	pos, err := recoverPosition(id, firstOffset(s.rec, id, number, earliest), len(lanes), recovered, dead)
	if err != nil {
		return nil, err
	}
	fresh := pos.fresh
	if pos.next < earliest {
		s.service.log.Error("records expired in Kafka before they were read", "pipeline", spec.GetId(), "partition", number, "from", pos.next, "to", earliest-1)
		pos.next, fresh = earliest, true
	}
	limit := int(deps.NATS.MaxPayload()) - messageOverhead
	p := &partition{
		rec: s.rec, topic: topic, number: number, cluster: s.cluster, log: s.service.log, status: status,
		linger: linger(spec.GetBatch().GetMaxDelay().AsDuration()),
		fields: batch.Fields{Keys: spec.GetDedup() != nil, Versions: spec.GetDedup().GetKeep() == controlv1.Keep_LATEST},
		// The event's own time otherwise.
		byArrival: spec.GetDedup() != nil && spec.GetDedup().GetTime() == "",
		revision:  current(s.rec).GetRevision(),
		plan:      s.plan, parser: rows.NewParser(s.plan), pos: pos, writer: writer,
		letters: &letters{limit: limit, open: func(ctx context.Context) (*fencedlog.Writer, error) {
			w, _, err := fencedlog.Open(ctx, deps.JS, lettersLog, lettersWriter(number), fencedlog.Options{Wait: status.waiting})
			return w, err
		}},
		app:   appender{writer: writer, limit: limit},
		large: min(256<<10, limit/4),
		dirty: fresh,
		mark:  func(int64) {},
	}
	c.partition = p
	status.settled(pos)
	status.running()
	return c, nil
}

// linger is how long rows wait for company in a batch: a small part of the delay that the user
// allows before a row is in ClickHouse.
func linger(maxDelay time.Duration) time.Duration {
	return min(max(maxDelay/10, 2*time.Millisecond), 50*time.Millisecond)
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
	s.disown(context.WithoutCancel(group.Context()))
	return nil
}

func (s *session) disown(ctx context.Context) {
	for _, c := range s.partitions {
		s.service.board.disown(ctx, c.status)
	}
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
