package ingestor

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"sync/atomic"
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
	if s.tune != nil {
		s.tune(config)
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
	var last atomic.Pointer[error]
	drained.Go(func() {
		for err := range group.Errors() {
			last.Store(&err)
			s.log.Info("kafka consumer", "pipeline", rec.GetSpec().GetId(), "error", err)
		}
	})
	defer drained.Wait()
	defer group.Close()
	for ctx.Err() == nil {
		session := &session{service: s, rec: rec, cluster: cluster, plan: plan, partitions: map[int32]*claimed{}, ended: make(chan struct{})}
		session.incarnation = incarnation{cluster: cluster, topic: source.GetTopic()}
		last.Store(nil)
		err := group.Consume(ctx, []string{source.GetTopic()}, session)
		if failed := session.failure(); failed != nil {
			return failed
		}
		if err != nil {
			return fmt.Errorf("consumer group %s: %w", source.GetGroup(), err)
		}
		// A claim that the client could not even begin ends the session without an error.
		if cause := last.Load(); cause != nil && session.unread() {
			return fmt.Errorf("consumer group %s: %w", source.GetGroup(), *cause)
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
	ended   chan struct{} // closed by Cleanup

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
	topic := s.rec.GetSpec().GetSource().GetKafka().GetTopic()
	numbers := group.Claims()[topic]
	ctx := group.Context()
	s.group = numbers
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
		opening, ctx := errgroup.WithContext(ctx)
		for _, number := range numbers {
			opening.Go(func() error {
				c, err := s.claim(ctx, topic, number, len(ends), bounds{info.ID, earliest[number], ends[number]})
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
		return err // Cleanup follows
	}
	s.service.mu.Lock()
	s.service.active[s] = struct{}{}
	s.service.mu.Unlock()
	return nil
}

// bounds are what Kafka says of a partition.
type bounds struct {
	id            topicID
	earliest, end int64
}

// claim becomes the writer of one partition, of so many that the topic has.
func (s *session) claim(ctx context.Context, topic string, number int32, partitions int, at bounds) (*claimed, error) {
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
	pos, err := recoverPosition(at.id, firstOffset(s.rec, at.id, number, at.earliest), len(lanes), recovered, dead)
	if err != nil {
		return nil, err
	}
	if pos.highest() > at.end {
		// Our predecessor may have read on since we asked; now it cannot settle any more.
		ends, err := s.cluster.EndOffsets(ctx, topic, controlv1.Isolation_READ_UNCOMMITTED)
		if err != nil {
			return nil, err
		}
		at.end = ends[number]
	}
	dirty := pos.fresh
	if pos.fit(topic, number, at.earliest, at.end, time.Now()) {
		s.service.log.Error("records are missing in Kafka", "pipeline", spec.GetId(), "partition", number, "loss", pos.loss.text)
		// Before anything is read: what the logs said so far no longer fits the offsets.
		body, err := pos.body(topic, number)
		if err != nil {
			return nil, err
		}
		if err := writer.Settle(ctx, body); err != nil {
			return nil, err
		}
		dirty = false
	}
	limit := int(deps.NATS.MaxPayload()) - messageOverhead
	share := int64(settleBytes)
	if most := writer.MaxBytes(); most > 0 {
		limit = min(limit, int(most/4))
		// Half of the log is for what is settled, which a purge can remove: a full log gets free.
		share = min(share, max(most/2/int64(max(partitions, 1)), minShare))
	}
	large := min(256<<10, limit/4)
	buffers := max(len(s.group), 1) * len(lanes) * buffersPerLane
	p := &partition{
		rec: s.rec, topic: topic, number: number, cluster: s.cluster, log: s.service.log, status: status,
		linger: linger(spec.GetBatch().GetMaxDelay().AsDuration()),
		fields: batch.Fields{Keys: spec.GetDedup() != nil, Versions: spec.GetDedup().GetKeep() == controlv1.Keep_LATEST},
		// The event's own time otherwise.
		byArrival: spec.GetDedup() != nil && spec.GetDedup().GetTime() == "",
		revision:  current(s.rec).GetRevision(),
		plan:      s.plan, parser: rows.NewParser(s.plan), pos: pos, writer: writer,
		letters: &letters{limit: int(deps.NATS.MaxPayload()) - messageOverhead, open: func(ctx context.Context) (*fencedlog.Writer, string, error) {
			w, past, err := fencedlog.Open(ctx, deps.JS, lettersLog, lettersWriter(number), fencedlog.Options{Lanes: []int{lettersLane}, Wait: status.waiting})
			return w, past.Last[lettersLane].Position, err
		}},
		app:   appender{writer: writer, limit: limit, plan: s.plan},
		large: large,
		share: share,
		// Twice: rows are held as columns, and as a message while it is appended.
		batchBytes: max(minBatchBytes, min(batchBytes, 2*large, bufferBudget/2/buffers)),
		dirty:      dirty,
		mark:       func(int64) {},
		same:       s.incarnation.same,
		hold:       s.service.holdLarge,
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
	close(s.ended)
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
