package ingestor

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/IBM/sarama"

	controlv1 "sluice/gen/sluice/control/v1"
	"sluice/libs/kafka"
	"sluice/libs/rows"
	"sluice/libs/spec"
)

const (
	firstRetry = 200 * time.Millisecond
	lastRetry  = 5 * time.Second
)

// runBranch reads a topic of a pipeline until ctx ends. Whatever goes wrong is shown and tried again.
func (s *Service) runBranch(ctx context.Context, rec *controlv1.PipelineRecord, branch spec.Branch) {
	log := s.log.With("pipeline", rec.GetSpec().GetId())
	if branch.Source != "" {
		log = log.With("source", branch.Source)
	}
	s.metrics.expect(rec.GetSpec().GetId())
	interrupted, consumer := &seldom{}, &seldom{}
	for retry := firstRetry; ctx.Err() == nil; {
		began := time.Now()
		err := s.consume(ctx, rec, branch, consumer)
		if err != nil && branch.Source != "" {
			err = fmt.Errorf("source %s: %w", branch.Source, err)
		}
		if ctx.Err() != nil {
			return
		}
		if time.Since(began) > 30*time.Second {
			retry = firstRetry
			interrupted.over()
			consumer.over()
		}
		if err == nil || errors.Is(err, errTopicChanged) {
			continue
		}
		if again, tell := interrupted.next(time.Now()); tell {
			log.Warn("reading from Kafka is interrupted; it is tried again until it works", "error", err, "again", again)
		}
		s.board.trouble(ctx, rec, branch.Source, err)
		s.metrics.failed(ctx, rec.GetSpec().GetId(), err)
		select {
		case <-ctx.Done():
		case <-time.After(retry):
		}
		retry = min(2*retry, lastRetry)
	}
}

// growth is how often a topic whose progress is told is asked for its partitions. Until a new one is known it does not hold the watermark back, and its
// events become late by as much: that must stay well below the grace, of dedup the window.
func growth(grace time.Duration) time.Duration { return min(max(grace/5, time.Second), 10*time.Second) }

// consume joins the consumer group and reads until ctx ends or something fails.
func (s *Service) consume(ctx context.Context, rec *controlv1.PipelineRecord, branch spec.Branch, errs *seldom) error {
	source := branch.Spec.GetKafka()
	config, err := kafka.Config(source, s.deps.Instance)
	if err != nil {
		return err
	}
	plan, err := rows.NewBranchPlan(current(rec), branch)
	if err != nil {
		return err
	}
	if branch.TellsProgress() {
		late := rec.GetSpec().GetJoin().GetGrace().AsDuration()
		if rec.GetSpec().GetJoin() == nil {
			late = branch.Dedup.GetWindow().AsDuration()
		}
		config.Metadata.RefreshFrequency = growth(late)
	}
	if s.tune != nil {
		s.tune(config)
	}
	cluster, err := kafka.Open(ctx, source, s.deps.Instance)
	if err != nil {
		return err
	}
	defer cluster.Close()
	prefetch := &prefetch{topic: source.GetTopic()}
	config.Consumer.Interceptors = append(config.Consumer.Interceptors, prefetch)
	group, err := sarama.NewConsumerGroup(source.GetBrokers(), source.GetGroup(), config)
	if err != nil {
		return fmt.Errorf("%s.kafka.brokers %v: join consumer group %s: %w", branch.Field(), source.GetBrokers(), source.GetGroup(), err)
	}
	prefetch.group = group
	var drained sync.WaitGroup
	var last atomic.Pointer[error]
	drained.Go(func() {
		for err := range group.Errors() {
			last.Store(&err)
			if again, tell := errs.next(time.Now()); tell {
				s.log.Info("kafka consumer", "pipeline", rec.GetSpec().GetId(), "error", err, "again", again)
			}
		}
	})
	defer drained.Wait()
	defer group.Close()
	var ends *ends
	if branch.TellsProgress() {
		ends = newEnds(cluster, source.GetTopic(), spec.Heartbeat(rec.GetSpec(), branch, 0)/4, s.log)
		asking, cancel := context.WithCancel(ctx)
		drained.Go(func() { ends.run(asking) })
		defer cancel()
	}
	for ctx.Err() == nil {
		session := &session{
			service: s, rec: rec, branch: branch, branches: len(spec.Branches(rec.GetSpec())), cluster: cluster, plan: plan, ends: ends, prefetch: prefetch,
			partitions: map[int32]*claimed{}, ended: make(chan struct{}),
		}
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
