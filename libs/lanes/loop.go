package lanes

import (
	"context"
	"errors"
	"sync"
	"time"

	controlv1 "sluice/gen/sluice/control/v1"
	"sluice/libs/spec"
)

// Run shares and runs lanes until ctx ends. Then it ends the lanes in good order, releases them,
// leaves the stage and returns nil. It never returns because NATS is away.
func (m *Manager) Run(ctx context.Context) error {
	m.setActive(true)
	defer m.setActive(false)
	background, stopBackground := context.WithCancel(context.WithoutCancel(ctx))
	var wg sync.WaitGroup
	defer wg.Wait()
	defer stopBackground()
	wg.Go(func() { m.watch(background) })
	wg.Go(func() { m.publish(background) })
	wg.Go(func() {
		for background.Err() == nil {
			if err := m.cfg.Registry.Watch(background, m.setRecords); background.Err() == nil {
				m.log.Warn("the watch of the pipelines ended; it is begun anew", "error", err)
				pause(background, time.Second)
			}
		}
	})
	tick := time.NewTicker(m.tick())
	defer tick.Stop()
	stop := ctx.Done()
	for {
		select {
		case <-stop:
			m.stopping, stop = true, nil
		case <-tick.C:
		case <-m.wake:
		case ev := <-m.events:
			m.hear(ev)
		case s := <-m.exits:
			m.exited(s)
		}
		m.catchUp()
		m.step()
		if m.stopping && m.running() == 0 {
			m.giveBack()
			return nil
		}
	}
}

// catchUp takes in what has come meanwhile, so that a burst costs one plan.
func (m *Manager) catchUp() {
	for {
		select {
		case ev := <-m.events:
			m.hear(ev)
		case s := <-m.exits:
			m.exited(s)
		default:
			return
		}
	}
}

// request bounds one exchange with NATS: a loop that waits cannot renew.
func (m *Manager) request() (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.Background(), m.renewal())
}

// step does what is due now.
func (m *Manager) step() {
	now := time.Now()
	if !m.keepSession(now) {
		m.count()
		return
	}
	if now.Sub(m.heard) > 2*m.renewal() {
		// Deaf: at least our own renewal should have been heard.
		m.heard = now
		m.askWatcher()
	}
	m.view.forget(now.Add(-markerTTL))
	records, draining := m.picture()
	if !m.view.synced || records == nil && !draining {
		return
	}
	wanted := map[laneID]bool{}
	if !draining {
		for id, r := range records {
			if m.cfg.Wanted(r) {
				for _, i := range spec.LiveLanes(r) {
					wanted[laneID{id, i}] = true
				}
			}
		}
	}
	m.checkSlots(wanted, records, draining)
	m.execute(makePlan(input{
		view: m.view, instance: m.cfg.Instance, session: m.session.id, draining: draining,
		wanted: wanted, running: m.endings(), lease: m.cfg.LeaseTime, now: now,
	}), records)
	m.count()
}

// keepSession joins or renews when it is time and says whether there is a session to work with.
func (m *Manager) keepSession(now time.Time) bool {
	if s := m.session; s != nil {
		switch {
		case s.ctx.Err() != nil || m.expired(s, now):
			m.endSession(errors.New("not renewed in time"))
			m.joinAt = now
		case now.Sub(s.renewed) >= m.renewal() || s.draining != m.isDraining():
			ctx, cancel := m.request()
			err := m.renew(ctx)
			cancel()
			if errors.Is(err, errBuried) {
				m.endSession(err)
				m.joinAt = now
			} else if err != nil {
				m.log.Debug("renewal failed", "error", err)
			}
		}
	}
	if m.session == nil && !m.stopping && !now.Before(m.joinAt) {
		ctx, cancel := m.request()
		err := m.join(ctx)
		cancel()
		if err != nil {
			m.joinAt = time.Now().Add(m.tick())
			m.log.Debug("not a member yet", "error", err)
		}
	}
	return m.session != nil && m.session.ctx.Err() == nil
}

// checkSlots ends the lanes that were taken from us, are not wanted, or have a new record.
func (m *Manager) checkSlots(wanted map[laneID]bool, records map[string]*controlv1.PipelineRecord, draining bool) {
	for id, s := range m.slots {
		l := m.view.lanes[id]
		switch {
		case l != nil && l.rev > s.rev && l.Session != s.session.id:
			s.end(ErrLost)
		case draining:
			s.end(ErrStopping)
		case !wanted[id]:
			s.end(ErrUnwanted)
		case revisionOf(records[id.pipeline]) != s.revision:
			s.end(ErrChanged)
		}
	}
}

// execute carries a plan out. What fails is planned again at the next step.
func (m *Manager) execute(p plan, records map[string]*controlv1.PipelineRecord) {
	for _, id := range p.give {
		m.slots[id].end(ErrRebalance)
	}
	for _, id := range p.adopt {
		m.start(id, m.view.lanes[id].rev, records[id.pipeline])
	}
	for _, name := range p.bury {
		key := m.memberKey(name)
		if !m.change(key, func(ctx context.Context) error { return m.remove(ctx, key, m.view.members[name].rev) }) {
			return
		}
		m.log.Info("an instance is gone; its lanes are free", "gone", name)
	}
	for _, id := range append(p.drop, p.clean...) {
		key := m.laneKey(id)
		if !m.change(key, func(ctx context.Context) error { return m.remove(ctx, key, m.view.lanes[id].rev) }) {
			return
		}
	}
	for _, id := range p.take {
		if !m.take(id, records[id.pipeline]) {
			return
		}
	}
	if len(p.bury) > 0 {
		m.poke() // their lanes can be planned for now
	}
}

// change does one write. A conflict is a fact to learn, anything else ends the round: NATS is away,
// and the next call would only wait as well.
func (m *Manager) change(key string, write func(context.Context) error) (goOn bool) {
	ctx, cancel := m.request()
	defer cancel()
	err := write(ctx)
	if isConflict(err) {
		if entry, getErr := m.kv.Get(ctx, key); getErr == nil {
			m.see(key, entry)
		}
		return true
	}
	if err != nil {
		m.log.Debug("lease not changed", "key", key, "error", err)
		return false
	}
	return true
}

// remove purges a key and enters that in the view. The revision of the marker is not told; one more
// than the record's is enough to hide the record and too small to hide what comes after the marker.
func (m *Manager) remove(ctx context.Context, key string, rev uint64) error {
	err := m.purge(ctx, key, rev)
	if err == nil {
		m.note(key, nil, rev+1)
	}
	return err
}

// take gets the lease of a free lane and starts it.
func (m *Manager) take(id laneID, record *controlv1.PipelineRecord) (goOn bool) {
	key := m.laneKey(id)
	value := encode(laneRecord{Instance: m.cfg.Instance, Session: m.session.id})
	return m.change(key, func(ctx context.Context) error {
		var rev uint64
		var err error
		if l := m.view.lanes[id]; l == nil || l.gone {
			rev, err = m.kv.Create(ctx, key, value)
		} else {
			rev, err = m.kv.Update(ctx, key, value, l.rev)
		}
		if err != nil {
			return err
		}
		m.note(key, value, rev)
		m.start(id, rev, record)
		return nil
	})
}

// release gives a lane's lease back. When that fails, the plan does it later or the lease dies.
func (m *Manager) release(id laneID, rev uint64) {
	key := m.laneKey(id)
	m.change(key, func(ctx context.Context) error { return m.remove(ctx, key, rev) })
}

// giveBack is the end of Run: no lane runs any more.
func (m *Manager) giveBack() {
	if m.session == nil {
		return
	}
	ctx, cancel := m.request()
	defer cancel()
	for id, l := range m.view.lanes {
		if !l.gone && l.Session == m.session.id {
			if err := m.remove(ctx, m.laneKey(id), l.rev); err != nil && !isConflict(err) {
				break
			}
		}
	}
	m.leave(ctx)
}

// pause waits for d or the end of ctx.
func pause(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-t.C:
	}
}
