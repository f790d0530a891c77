package control

import (
	"context"
	"fmt"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"

	controlv1 "sluice/gen/sluice/control/v1"
	"sluice/libs/kafka"
	"sluice/libs/spec"
)

const (
	// offsetsTimeout bounds how long a status waits for Kafka before it goes without.
	offsetsTimeout  = 3 * time.Second
	defaultInterval = time.Second
	minInterval     = 100 * time.Millisecond
)

// Status returns the condition of a pipeline.
func (s *Service) Status(ctx context.Context, req *controlv1.StatusRequest) (*controlv1.StatusResponse, error) {
	st, err := s.status(ctx, req.GetId())
	if err != nil {
		return nil, err
	}
	return &controlv1.StatusResponse{Status: st}, nil
}

// Watch sends the status now and whenever it changes, until the pipeline is gone (NOT_FOUND) or the
// client leaves.
func (s *Service) Watch(req *controlv1.WatchRequest, stream grpc.ServerStreamingServer[controlv1.WatchResponse]) error {
	interval := defaultInterval
	if req.GetInterval() != nil {
		interval = req.GetInterval().AsDuration()
		if interval < minInterval {
			return codef(codes.InvalidArgument, "interval: %s: is too short: give at least %s", interval, minInterval)
		}
	}
	tick := time.NewTicker(interval)
	defer tick.Stop()
	var last *controlv1.PipelineStatus
	for {
		st, err := s.status(stream.Context(), req.GetId())
		if err != nil {
			return err
		}
		if !proto.Equal(st, last) {
			last = st
			if err := stream.Send(&controlv1.WatchResponse{Status: st}); err != nil {
				return err
			}
		}
		select {
		case <-stream.Context().Done():
			return stream.Context().Err()
		case <-tick.C:
		}
	}
}

func (s *Service) status(ctx context.Context, id string) (*controlv1.PipelineStatus, error) {
	rec, _, err := s.get(ctx, id)
	if err != nil {
		return nil, err
	}
	// The offsets come first: see addUp.
	at, unknown := s.offsets(ctx, rec.Spec)
	units, err := s.units(ctx, rec)
	if err != nil {
		return nil, err
	}
	sum := addUp(rec, at, units, time.Now())
	st := sum.PipelineStatus
	st.Guarantee = s.guarantees.now(rec)
	if worse := worsened(rec.GetGuarantee(), st.Guarantee); worse != "" {
		st.Warnings = append(st.Warnings, worse)
	}
	if at != nil {
		if healed(units) {
			if err := s.lagOfHealed(ctx, rec, units, sum); err != nil {
				s.log.Debug("whether anything is on its way cannot be told by positions", "pipeline", id, "error", err) // then the counts have to do
			}
		}
		s.lags.keep(rec.Uid, st.Lag)
		return st, nil
	}
	if rec.Desired == controlv1.DesiredState_DELETING {
		return st, nil
	}
	lag, known := s.lags.last(rec.Uid)
	// Never 0, by which scripts tell that all is settled.
	if known {
		st.Lag = max(1, lag)
		st.Errors = append(st.Errors, fmt.Sprintf("the lag is as last known: %v", unknown))
	} else {
		st.Lag = max(1, st.Lag)
		st.Errors = append(st.Errors, fmt.Sprintf("the lag is not known: %v", unknown))
	}
	return st, nil
}

// offsets asks Kafka where the topics of a pipeline begin and end, by source.
func (s *Service) offsets(ctx context.Context, p *controlv1.Pipeline) (map[string]*offsets, error) {
	ctx, cancel := context.WithTimeout(ctx, offsetsTimeout)
	defer cancel()
	branches := spec.Branches(p)
	found := make([]*offsets, len(branches))
	asking, ctx := errgroup.WithContext(ctx)
	for i, b := range branches {
		asking.Go(func() (err error) {
			found[i], err = s.topicOffsets(ctx, b)
			return err
		})
	}
	if err := asking.Wait(); err != nil {
		return nil, err
	}
	at := make(map[string]*offsets, len(branches))
	for i, b := range branches {
		at[b.Source] = found[i]
	}
	return at, nil
}

func (s *Service) topicOffsets(ctx context.Context, b spec.Branch) (*offsets, error) {
	at, source := &offsets{}, b.Spec.GetKafka()
	err := s.kafka.useOf(ctx, b, func(c *kafka.Cluster) error {
		topic, err := c.Topic(ctx, source.GetTopic())
		if err != nil {
			return err
		}
		at.topicID = topic.ID
		if at.earliest, err = c.EarliestOffsets(ctx, source.GetTopic()); err != nil {
			return err
		}
		at.end, err = c.EndOffsets(ctx, source.GetTopic(), source.GetIsolation())
		return err
	})
	if err != nil {
		return nil, err
	}
	return at, nil
}

// lags remembers the last lag of each pipeline for the time that Kafka cannot be asked.
type lags struct {
	mu    sync.Mutex
	byUID map[string]uint64 // guarded by mu
}

// maxLags bounds what deleted pipelines leave behind.
const maxLags = 10_000

func (l *lags) keep(uid string, lag uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.byUID == nil || len(l.byUID) >= maxLags {
		l.byUID = map[string]uint64{}
	}
	l.byUID[uid] = lag
}

func (l *lags) last(uid string) (uint64, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	lag, ok := l.byUID[uid]
	return lag, ok
}
