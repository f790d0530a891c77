package lanes

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"slices"
	"time"

	controlv1 "sluice/gen/sluice/control/v1"
	stagev1 "sluice/gen/sluice/stage/v1"
	"sluice/libs/spec"
)

// Back-off between calls of a Func that fails.
const (
	minBackoff = 200 * time.Millisecond
	maxBackoff = 5 * time.Second
	// healthy: a Func that worked so long has not failed "again".
	healthy = 30 * time.Second
)

// revision is what of a record makes a lane start anew when it changes.
type revision struct {
	uid        string
	generation uint64
	desired    controlv1.DesiredState
	schema     uint64
}

func revisionOf(r *controlv1.PipelineRecord) revision {
	rev := revision{uid: r.GetUid(), generation: r.GetGeneration(), desired: r.GetDesired()}
	if s := r.GetSchemas(); len(s) > 0 {
		rev.schema = s[len(s)-1].GetRevision()
	}
	return rev
}

// slot is a lane that is worked on. All fields are owned by the loop; work reads what start has set.
type slot struct {
	id       laneID
	rev      uint64 // of our lease
	session  *session
	revision revision
	lane     *Lane
	ctx      context.Context
	cancel   context.CancelCauseFunc
	ending   bool
}

// end cancels the lane; the first reason counts.
func (s *slot) end(reason error) {
	s.ending = true
	s.cancel(reason)
}

func (m *Manager) start(id laneID, rev uint64, record *controlv1.PipelineRecord) {
	s := &slot{id: id, rev: rev, session: m.session, revision: revisionOf(record)}
	s.lane = newLane(m.cfg, m.log, id, record)
	s.ctx, s.cancel = context.WithCancelCause(m.session.ctx)
	m.mu.Lock()
	m.slots[id] = s
	m.mu.Unlock()
	m.metrics.started()
	go m.work(s) // waited for: Run returns after it has received every slot from exits
}

// exited is called by the loop with a slot whose work has returned.
func (m *Manager) exited(s *slot) {
	cause := context.Cause(s.ctx)
	s.cancel(nil)
	m.metrics.ended(cause)
	m.mu.Lock()
	delete(m.slots, s.id)
	record := m.records[s.id.pipeline]
	m.mu.Unlock()
	if s.session != m.session || m.session.ctx.Err() != nil || errors.Is(cause, ErrLost) {
		return // not ours any more; nothing to release
	}
	again := errors.Is(cause, ErrChanged) && record != nil && m.cfg.Wanted(record) &&
		slices.Contains(spec.LiveLanes(record), s.id.index) && !m.isDraining()
	if again {
		m.start(s.id, s.rev, record)
		return
	}
	m.release(s.id, s.rev)
}

// work calls the Func until the slot ends.
func (m *Manager) work(s *slot) {
	defer func() { m.exits <- s }()
	l := s.lane
	l.restore(s.ctx, m.cfg.Registry, m.renewal())
	backoff := minBackoff
	for s.ctx.Err() == nil {
		began := time.Now()
		err := m.call(s)
		if s.ctx.Err() != nil {
			if err != nil && !errors.Is(err, context.Canceled) && !errors.Is(err, context.Cause(s.ctx)) {
				l.Log.Info("lane ended with an error", "reason", context.Cause(s.ctx), "error", err)
			}
			break
		}
		if err == nil {
			l.idle(s.ctx)
			break
		}
		if time.Since(began) > healthy {
			backoff = minBackoff
		}
		// Its status says so, and so does the log: Lane.publish.
		l.Log.Debug("lane failed and is run again", "after", backoff, "error", err)
		_ = l.Wait(s.ctx, err, backoff) // its error is the end of ctx, which ends the loop
		backoff = min(2*backoff, maxBackoff)
	}
	l.close(m.final(s), m.cfg.Registry, m.renewal())
}

// final: the lane's last word is ours. A deletion waits for it; once the record is gone nobody would remove it any more.
func (m *Manager) final(s *slot) bool {
	cause := context.Cause(s.ctx)
	if errors.Is(cause, ErrUnwanted) {
		records, _ := m.picture()
		record := records[s.id.pipeline]
		return record != nil && record.GetUid() == s.revision.uid
	}
	return errors.Is(cause, ErrRebalance) || errors.Is(cause, ErrStopping)
}

// call turns a panic into an error: one bad lane must not end the others.
func (m *Manager) call(s *slot) (err error) {
	defer func() {
		if r := recover(); r != nil {
			s.lane.Log.Error("panic in a lane", "panic", r, "stack", string(debug.Stack()))
			err = fmt.Errorf("panic: %v", r)
		}
	}()
	return m.cfg.Run(s.ctx, s.lane)
}

func (m *Manager) endings() map[laneID]bool {
	out := make(map[laneID]bool, len(m.slots))
	for id, s := range m.slots {
		out[id] = s.ending
	}
	return out
}

func (m *Manager) running() int { return len(m.slots) }

// units are the lanes in work, for status and publishing.
func (m *Manager) lanes(pipeline string) []*Lane {
	m.mu.Lock()
	defer m.mu.Unlock()
	var out []*Lane
	for id, s := range m.slots {
		if pipeline == "" || id.pipeline == pipeline {
			out = append(out, s.lane)
		}
	}
	return out
}

// Status returns the lanes in work, by pipeline and lane.
func (m *Manager) Status(pipeline string) []*stagev1.UnitStatus {
	var out []*stagev1.UnitStatus
	for _, l := range m.lanes(pipeline) {
		out = append(out, l.snapshot())
	}
	sortUnits(out)
	return out
}
