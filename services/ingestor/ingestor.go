// Package ingestor reads Kafka topics into the ingest logs of their pipelines.
//
// It guarantees that every record of a topic is in its lane's log once and in the order of its
// partition, or in the dead-letter log, whatever is killed: a partition's position is in the log
// itself, in the last message of each lane and in the writer's fence. Kafka's consumer group only
// says who reads what; its committed offsets are a courtesy to Kafka's own tools.
//
// It does not guarantee order between partitions.
package ingestor

import (
	"context"
	"fmt"
	"log/slog"
	"sync"

	"github.com/IBM/sarama"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sync/semaphore"

	controlv1 "sluice/gen/sluice/control/v1"
	stagev1 "sluice/gen/sluice/stage/v1"
	"sluice/libs/registry"
	"sluice/libs/service"
	"sluice/libs/spec"
)

// Service is the ingest stage of all pipelines, as far as this instance has a share in it.
type Service struct {
	deps      service.Deps
	registry  *registry.Registry
	board     *board
	log       *slog.Logger
	metrics   *metrics
	large     *semaphore.Weighted // memory of large events
	scratches scratches
	tune      func(*sarama.Config) // for tests, whose groups need not be patient; may be nil
	wake      chan struct{}        // a picture has come or draining has changed

	mu       sync.Mutex
	wanted   map[string]*controlv1.PipelineRecord // guarded by mu
	draining bool                                 // guarded by mu
	active   map[*session]struct{}                // guarded by mu
	drained  chan struct{}                        // guarded by mu; closed once draining has stopped all
}

// Build makes the service; see service.Build.
func Build(ctx context.Context, deps service.Deps) (service.Service, error) {
	reg, err := registry.Open(ctx, deps.JS)
	if err != nil {
		return nil, err
	}
	return New(deps, reg)
}

// New makes the service. It does nothing until Run.
func New(deps service.Deps, reg *registry.Registry) (*Service, error) {
	m, err := newMetrics(deps.Meter)
	if err != nil {
		return nil, err
	}
	return &Service{
		deps: deps, registry: reg, log: deps.Log, metrics: m,
		board:  &board{registry: reg, instance: deps.Instance, log: deps.Log, units: map[unitKey]*unit{}},
		large:  semaphore.NewWeighted(largeBudget),
		wake:   make(chan struct{}, 1),
		active: map[*session]struct{}{},
	}, nil
}

// Run reads the topics of all running pipelines until ctx ends, then settles what was read.
func (s *Service) Run(ctx context.Context) error {
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error {
		return s.registry.Watch(ctx, func(picture map[string]*controlv1.PipelineRecord) {
			s.mu.Lock()
			s.wanted = picture
			s.mu.Unlock()
			s.poke()
		})
	})
	group.Go(func() error {
		s.board.run(ctx)
		return nil
	})
	group.Go(func() error {
		s.supervise(ctx)
		return nil
	})
	err := group.Wait()
	if ctx.Err() != nil {
		return nil
	}
	return err
}

func (s *Service) poke() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// runner reads one topic of a pipeline in a goroutine of its own.
type runner struct {
	uid        string
	generation uint64
	cancel     context.CancelFunc
	done       chan struct{}
}

// way is a branch of a pipeline.
type way struct{ pipeline, source string }

// supervise keeps one runner for each branch of each pipeline that is to run.
func (s *Service) supervise(ctx context.Context) {
	runners := map[way]*runner{}
	stop := func(ways ...way) {
		for _, w := range ways {
			runners[w].cancel()
		}
		for _, w := range ways {
			<-runners[w].done
			delete(runners, w)
		}
	}
	for {
		s.mu.Lock()
		wanted, draining := s.wanted, s.draining
		s.mu.Unlock()
		var obsolete []way
		for w, r := range runners {
			rec := wanted[w.pipeline]
			if draining || rec.GetDesired() != controlv1.DesiredState_RUNNING || rec.GetUid() != r.uid || rec.GetGeneration() != r.generation {
				obsolete = append(obsolete, w)
			}
		}
		stop(obsolete...)
		for id, rec := range wanted {
			if draining || rec.GetDesired() != controlv1.DesiredState_RUNNING {
				continue
			}
			for _, branch := range spec.Branches(rec.GetSpec()) {
				w := way{id, branch.Source}
				if runners[w] != nil {
					continue
				}
				runCtx, cancel := context.WithCancel(ctx)
				r := &runner{uid: rec.GetUid(), generation: rec.GetGeneration(), cancel: cancel, done: make(chan struct{})}
				runners[w] = r
				go func() {
					defer close(r.done)
					s.runBranch(runCtx, rec, branch)
				}()
			}
		}
		if draining {
			s.mu.Lock()
			if s.drained != nil {
				close(s.drained)
				s.drained = nil
			}
			s.mu.Unlock()
		}
		select {
		case <-ctx.Done():
			for _, r := range runners {
				<-r.done
			}
			return
		case <-s.wake:
		}
	}
}

// Name is the name of the stage.
func (s *Service) Name() string { return spec.StageIngest }

// Knows tells whether the registry has the pipeline. It is true until the registry has spoken.
func (s *Service) Knows(pipeline string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	_, ok := s.wanted[pipeline]
	return ok || s.wanted == nil
}

// Status returns the partitions that this instance reads.
func (s *Service) Status(pipeline string) []*stagev1.UnitStatus {
	var list []*stagev1.UnitStatus
	for _, u := range s.board.list(pipeline) {
		list = append(list, u.snapshot(false))
	}
	return list
}

// Drain gives up all partitions, their positions settled, and takes none until Undrain.
func (s *Service) Drain(ctx context.Context) error {
	s.mu.Lock()
	s.draining = true
	if s.drained == nil {
		s.drained = make(chan struct{})
	}
	drained := s.drained
	s.mu.Unlock()
	s.poke()
	select {
	case <-drained:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("drain: %w", context.Cause(ctx))
	}
}

// Undrain ends Drain.
func (s *Service) Undrain() {
	s.mu.Lock()
	s.draining = false
	s.mu.Unlock()
	s.poke()
}

// Checkpoint settles the positions of the partitions that this instance reads.
func (s *Service) Checkpoint(ctx context.Context, pipeline string) (int, error) {
	s.mu.Lock()
	var sessions []*session
	for session := range s.active {
		if pipeline == "" || session.rec.GetSpec().GetId() == pipeline {
			sessions = append(sessions, session)
		}
	}
	s.mu.Unlock()
	units := 0
	for _, session := range sessions {
		n, err := session.checkpoint(ctx)
		units += n
		if err != nil {
			return units, err
		}
	}
	return units, nil
}
