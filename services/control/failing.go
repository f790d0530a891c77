package control

import (
	"context"
	"sync"
	"time"

	"sluice/libs/registry"
)

// repeatAfter is how often a trouble that lasts is told again.
const repeatAfter = time.Minute

// failing are the pipelines that cannot be looked after: what is tried every second is not told every second.
type failing struct {
	mu sync.Mutex
	of map[string]*failure // guarded by mu; by pipeline
}

type failure struct {
	told  time.Time
	times int // since it was told
}

// tell tells the operator that something about a pipeline fails: the first time, then every minute with how often it was; and once that it works
// again. err nil: it worked.
func (s *Service) tell(ctx context.Context, id, what string, err error) {
	if err != nil && ctx.Err() != nil {
		return
	}
	s.failing.mu.Lock()
	defer s.failing.mu.Unlock()
	t := s.failing.of[id]
	now := time.Now()
	switch {
	case err == nil && t != nil:
		delete(s.failing.of, id)
		s.log.Info("looked after again", "pipeline", id)
	case err == nil:
	case t == nil:
		if s.failing.of == nil {
			s.failing.of = map[string]*failure{}
		}
		s.failing.of[id] = &failure{told: now}
		s.log.Warn("the pipeline cannot be looked after; trying again", "pipeline", id, "failing", what, "error", registry.Reason(err.Error()))
	default:
		if t.times++; now.Sub(t.told) >= repeatAfter {
			s.log.Warn("the pipeline cannot be looked after; trying again", "pipeline", id, "failing", what, "error", registry.Reason(err.Error()), "again", t.times)
			t.told, t.times = now, 0
		}
	}
	if err != nil {
		s.metrics.failed(ctx, err)
	}
}
