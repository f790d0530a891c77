package lanes

import (
	"context"
	"errors"
	"fmt"

	controlv1 "sluice/gen/sluice/control/v1"
)

// Name is the stage.
func (m *Manager) Name() string { return m.cfg.Stage }

// Knows tells whether the registry has the pipeline. It is true until the registry has spoken.
func (m *Manager) Knows(pipeline string) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	_, ok := m.records[pipeline]
	return ok || m.records == nil
}

// Drain makes the instance give up all lanes and take none. It returns once nothing is owned, or when
// ctx ends; the instance goes on draining then.
func (m *Manager) Drain(ctx context.Context) error {
	m.mu.Lock()
	m.draining, m.drained = true, false
	m.mu.Unlock()
	m.poke()
	for {
		m.mu.Lock()
		done, changed, left := m.drained || !m.active, m.changed, len(m.slots)
		m.mu.Unlock()
		if done {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return fmt.Errorf("drain: %d lanes are still in work: %w", left, ctx.Err())
		}
	}
}

// Undrain lets the instance take lanes again.
func (m *Manager) Undrain() {
	m.mu.Lock()
	m.draining, m.drained = false, false
	m.mu.Unlock()
	m.poke()
}

// Checkpoint asks every lane in work, of one pipeline or with "" of all, to make its position durable
// now, and waits for the answers. It says how many did.
func (m *Manager) Checkpoint(ctx context.Context, pipeline string) (int, error) {
	type answer struct {
		l   *Lane
		err error
	}
	m.mu.Lock()
	answers := make(chan answer, len(m.slots))
	asked := 0
	for id, s := range m.slots {
		if pipeline != "" && id.pipeline != pipeline {
			continue
		}
		asked++
		go func() { answers <- answer{s.lane, s.checkpoint(ctx)} }() // received below
	}
	m.mu.Unlock()
	done := 0
	var errs []error
	for range asked {
		if a := <-answers; a.err != nil {
			errs = append(errs, fmt.Errorf("pipeline %s lane %d: %w", a.l.Pipeline.GetSpec().GetId(), a.l.Index, a.err))
		} else {
			done++
		}
	}
	return done, errors.Join(errs...)
}

func (s *slot) checkpoint(ctx context.Context) error {
	reply := make(chan error, 1)
	select {
	case s.lane.checkpoints <- reply:
	case <-s.ctx.Done():
		return errEnded
	case <-ctx.Done():
		return ctx.Err()
	}
	select {
	case err := <-reply:
		return err
	case <-s.ctx.Done():
		return errEnded
	case <-ctx.Done():
		return ctx.Err()
	}
}

// isDraining: nothing is to be taken, by wish or because the process stops. Called by the loop.
func (m *Manager) isDraining() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.draining || m.stopping
}

// picture is what the plan starts from. Called by the loop.
func (m *Manager) picture() (records map[string]*controlv1.PipelineRecord, draining bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.records, m.draining || m.stopping
}

// count tells Drain how far it is. Called by the loop at the end of each step.
func (m *Manager) count() {
	owned := 0
	if m.session != nil {
		for _, l := range m.view.lanes {
			if !l.gone && l.Session == m.session.id {
				owned++
			}
		}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.draining && !m.drained && owned == 0 && len(m.slots) == 0 {
		m.drained = true
		m.announce()
	}
}

// setActive says whether there is a loop that Drain can wait for.
func (m *Manager) setActive(v bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.active = v
	m.announce()
}

// announce wakes Drain. Called with mu held.
func (m *Manager) announce() {
	close(m.changed)
	m.changed = make(chan struct{})
}
