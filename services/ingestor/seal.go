package ingestor

import (
	"context"
	"sync"
	"time"
)

// envelope is what a batch says that is made now. idle: there is nothing more to read.
func (p *partition) envelope(idle bool) envelope {
	// Arrival times do not go back, whatever the clock does.
	p.lastArrival = max(p.lastArrival, time.Now().UnixMilli())
	return envelope{
		revision: p.revision, topic: p.topic, id: p.pos.id, partition: p.number, rewinds: p.pos.rewinds, rewoundTo: p.pos.rewoundTo,
		arrival: p.lastArrival, byArrival: p.byArrival, tally: p.pos.tally,
		source: p.branch.Source, progress: p.progress(idle), next: p.pos.next, behind: p.late(),
	}
}

// seal hands the lane's buffer to its appender. It waits while the appender is behind.
func (p *partition) seal(ctx context.Context, l *lane, s sealed) error {
	n := l.fill.rows.Rows()
	if n == 0 {
		return nil
	}
	p.app.flying.Add(1)
	p.held += messageOverhead / 8
	s.buf, s.position, s.env = l.fill, p.pos.token(), p.envelope(false)
	if p.pulse != nil {
		p.pulse.lanes[l.index] = said{at: time.Now(), progress: s.env.progress}
	}
	select {
	case l.work <- s:
	default:
		p.stalled = true
		select {
		case l.work <- s:
		case <-ctx.Done():
			p.app.flying.Done()
			if s.release != nil {
				s.release()
			}
			return context.Cause(ctx)
		}
	}
	p.pending -= n
	p.pendingFrom = time.Time{}
	for _, other := range p.lanes {
		if other != l && other.fill.rows.Rows() > 0 && (p.pendingFrom.IsZero() || other.since.Before(p.pendingFrom)) {
			p.pendingFrom = other.since
		}
	}
	select {
	case l.fill = <-l.free:
	default:
		p.stalled = true
		select {
		case l.fill = <-l.free:
		case <-ctx.Done():
			l.fill = nil
			return context.Cause(ctx)
		}
	}
	return nil
}

func (p *partition) sealAll(ctx context.Context) error {
	for _, l := range p.lanes {
		if err := p.seal(ctx, l, sealed{}); err != nil {
			return err
		}
	}
	return nil
}

// startLanes starts an appender for each lane and returns what waits for them to end.
func (p *partition) startLanes(ctx context.Context) (wait func()) {
	var running sync.WaitGroup
	for i := range p.pos.lanes {
		l := &lane{index: i, number: p.pos.from + i, free: make(chan *buffer, buffersPerLane), work: make(chan sealed, 1)}
		for range buffersPerLane {
			l.free <- p.app.newBuffer()
		}
		l.fill = <-l.free
		p.lanes = append(p.lanes, l)
	}
	for _, l := range p.lanes {
		running.Go(func() { p.app.run(ctx, l) })
	}
	return func() {
		for _, l := range p.lanes {
			close(l.work)
		}
		running.Wait()
	}
}
