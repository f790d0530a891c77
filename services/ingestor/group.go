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
