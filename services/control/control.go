// Package control is PipelineService: it checks pipelines against the live topic and table, keeps
// their records, makes and removes their streams and buckets, and adds up what their stages report.
//
// Guaranteed: Create and Update say everything that is wrong at once and change nothing then; a
// deletion that has begun is finished, also by another control service after a crash; streams and
// buckets that went missing are made anew; no secret is read into an answer or a log, since a
// specification only says where a secret is.
//
// Not guaranteed: that two control services which create the same id in the same instant do not
// disturb each other's empty streams. Run one; the stages do not need it to go on.
package control

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	controlv1 "sluice/gen/sluice/control/v1"
	"sluice/libs/registry"
	"sluice/libs/service"
)

// Config is what a program decides about the service; the zero value is the usual.
type Config struct {
	// StopTimeout bounds how long a deletion waits for the units to stop before it removes what they
	// work on. An owner that was killed reports nothing any more. Default 10s.
	StopTimeout time.Duration
	// CheckEvery is how often the streams and buckets of the pipelines are looked after, and their tables looked at. Default 30s.
	CheckEvery time.Duration
	// ProbeTimeout bounds each look at Kafka and ClickHouse when a pipeline is checked. Default 15s.
	ProbeTimeout time.Duration
	// VerifyWait is how long an audit waits for a moment at which the sink is not writing. Default 30s.
	VerifyWait time.Duration
}

func (c Config) withDefaults() Config {
	if c.StopTimeout <= 0 {
		c.StopTimeout = 10 * time.Second
	}
	if c.CheckEvery <= 0 {
		c.CheckEvery = 30 * time.Second
	}
	if c.ProbeTimeout <= 0 {
		c.ProbeTimeout = 15 * time.Second
	}
	if c.VerifyWait <= 0 {
		c.VerifyWait = 30 * time.Second
	}
	return c
}

// Service serves PipelineService. Its methods may be called from any goroutine, before, while and
// after Run runs.
type Service struct {
	controlv1.UnimplementedPipelineServiceServer
	config   Config
	js       jetstream.JetStream
	registry *registry.Registry
	log      *slog.Logger
	kafka    *clusters
	locks    locks
	lags     lags
	passages passages
	metrics  *metrics
	failing  failing
	// guarantees is what the tables promise now.
	guarantees guarantees
}

// Build waits for NATS and makes the service; it has the shape that service.Main wants.
func Build(ctx context.Context, d service.Deps) (service.Service, error) {
	r, err := registry.Open(ctx, d.JS)
	if err != nil {
		return nil, err
	}
	return New(d, r, Config{})
}

// New makes the service. What it opens is closed at the end of Run.
func New(d service.Deps, r *registry.Registry, config Config) (*Service, error) {
	m, err := newMetrics(d.Meter)
	if err != nil {
		return nil, err
	}
	return &Service{
		config:   config.withDefaults(),
		js:       d.JS,
		registry: r,
		log:      d.Log,
		kafka:    newClusters("sluice-control-" + d.Instance),
		metrics:  m,
	}, nil
}

// Run looks after the pipelines until ctx ends: it finishes deletions that were begun and makes
// missing streams and buckets anew.
func (s *Service) Run(ctx context.Context) error {
	defer s.kafka.close()
	err := s.keepUp(ctx)
	if errors.Is(err, context.Canceled) {
		return nil
	}
	return err
}

// locks serialises what is done to one pipeline by this process.
type locks struct {
	mu   sync.Mutex
	held map[string]chan struct{} // guarded by mu; a channel is full while its id is locked
}

// lock waits until id is free or ctx ends.
func (l *locks) lock(ctx context.Context, id string) (unlock func(), err error) {
	l.mu.Lock()
	if l.held == nil {
		l.held = map[string]chan struct{}{}
	}
	slot := l.held[id]
	if slot == nil {
		slot = make(chan struct{}, 1)
		l.held[id] = slot
	}
	l.mu.Unlock()
	select {
	case slot <- struct{}{}:
		return func() { <-slot }, nil
	case <-ctx.Done():
		return nil, fmt.Errorf("wait for another call about pipeline %q: %w", id, ctx.Err())
	}
}
