package ingestor

import (
	"context"
	"time"

	"sluice/libs/batch"
	"sluice/libs/rows"
)

const (
	// A silent partition speaks the less often, the longer it has been silent: of what waits for time to pass, as
	// much of it may be added. But as often as the others need it to be let go on: pulse.rest.
	restShare = 20
	// restSettle is how soon heartbeats that followed the last settle are settled, too, so that they can be purged.
	restSettle = 10 * time.Second
)

// pulse tells lanes how far a partition's event time has come, by batches without rows where there are none with rows: for the watermark of a join,
// and for dedup by a field of the event. It is owned by the partition's loop.
//
// Not said more often than interval; not at all while nothing has changed, but for a partition that is idle: its event time goes on with the clock, and
// the others pass it only as long as it is heard to be so.
type pulse struct {
	interval   time.Duration
	least      time.Duration // the shortest interval of a partition that is idle,
	rest       time.Duration // and the longest
	partitions int
	join       bool
	maxFuture  int64 // with a join: milliseconds that an event may be ahead of its arrival to count; 0: any
	dedup      bool  // dedup goes by a field
	maxDedup   int64 // its largest value since the partition was taken, if hasDedup
	hasDedup   bool
	timedAt    time.Time // when the last record with such a value was taken, as the partition's lastRecord; before the first one, the start
	ends       *ends
	idleFrom   time.Time // when the last record was taken; before the first one, what the fence said, or the start
	lanes      []said
}

// said is what a lane was told last.
type said struct {
	at       time.Time
	progress batch.Progress
}

// record notes that one was taken.
func (b *pulse) record(now time.Time) {
	if b != nil {
		b.idleFrom = now
	}
}

// saw takes note of an event's times. For the join, one that is too far ahead says nothing of how far time has come: it refuses its row, by
// the arrival of its batch, which is no earlier than what is known here. For dedup no time is further than the arrival.
func (p *partition) saw(row rows.Row) {
	b := p.pulse
	if b == nil {
		return
	}
	if b.join && (b.maxFuture == 0 || row.EventMS <= p.lastArrival+b.maxFuture) {
		p.pos.saw(row.EventMS)
	}
	if b.dedup && !row.NoTime {
		if ms := min(row.TimeMS, p.lastArrival); !b.hasDedup || ms > b.maxDedup {
			b.maxDedup, b.hasDedup = ms, true
		}
		b.timedAt = p.lastRecord
	}
}

// progress is what batches say now. idle tells that there is nothing to read.
func (p *partition) progress(idle bool) batch.Progress {
	if p.pulse == nil {
		return batch.Progress{}
	}
	now := batch.Progress{
		MaxEventMS: p.pos.maxEvent, HasMax: p.pos.hasMax, Partitions: p.pulse.partitions,
		TellsDedup: p.pulse.dedup, MaxDedupMS: p.pulse.maxDedup, HasDedup: p.pulse.hasDedup,
	}
	switch {
	case idle:
		now.IdleSinceMS = p.pulse.idleFrom.UnixMilli()
	case p.untimed():
		now.UntimedMS = p.pulse.timedAt.UnixMilli()
	}
	return now
}

// untimed tells whether records come of which none says what time it is for dedup, dead letters for instance: it must not wait for them for ever.
func (p *partition) untimed() bool { return p.pulse.dedup && p.lastRecord.After(p.pulse.timedAt) }

// beat sends what is due and says when to come back.
func (p *partition) beat(now time.Time) time.Duration {
	b := p.pulse
	if b == nil {
		return idleTick
	}
	silent := now.Sub(b.idleFrom)
	pace := b.interval
	if silent >= b.interval {
		pace = max(pace, b.least, min(silent/restShare, b.rest))
	}
	untimed := p.untimed()
	if untimed {
		pace = max(pace, b.rest) // like one that is idle
	}
	next := idleTick
	var asked time.Time
	idle, more := false, false
	if silent >= b.interval {
		asked, idle, more = b.ends.after(p.number, p.pos.next)
		idle = idle && asked.After(b.idleFrom) && asked.UnixMilli() >= p.lastArrival
	}
	for i, l := range p.lanes {
		last := b.lanes[i]
		// What it was heard to be it is no more: there is a record, be it of a transaction that is open for long.
		woke := more && last.progress.IdleSinceMS > 0 && asked.After(last.at)
		if wait := pace - now.Sub(last.at); wait > 0 && !woke {
			next = min(next, wait)
			continue
		}
		if l.fill.rows.Rows() > 0 || len(l.free) < buffersPerLane-1 {
			continue // rows are about to say it, or on their way
		}
		switch fresh := asked.After(last.at); {
		case woke:
			p.tell(l, now, p.envelope(false))
		case silent >= b.interval && (!idle || !fresh):
			b.ends.ask()
			next = min(next, b.interval/4)
			// Nobody knows whether there is something to read. What was read can be said.
			if said := p.progress(false); last.progress.IdleSinceMS == 0 && last.progress != said {
				p.tell(l, now, p.envelope(false))
			}
		case idle:
			env := p.envelope(true)
			env.arrival = max(asked.UnixMilli(), env.progress.IdleSinceMS)
			p.lastArrival = env.arrival
			p.tell(l, now, env)
		case !idle && (untimed || last.progress != p.progress(false)):
			p.tell(l, now, p.envelope(false))
		}
	}
	return max(next, time.Millisecond)
}

// tell hands a batch without rows to the lane's appender, which must be waiting for work.
func (p *partition) tell(l *lane, now time.Time, env envelope) {
	p.app.flying.Add(1)
	p.held += messageOverhead / 8
	p.pulse.lanes[l.index] = said{at: now, progress: env.progress}
	l.work <- sealed{buf: l.fill, position: p.pos.token(), env: env}
	l.fill = <-l.free
	p.resting = true
}

// rest settles the heartbeats after the last settle: nothing else would, and nothing before an unsettled message can be purged.
func (p *partition) rest(ctx context.Context, now time.Time) error {
	if !p.resting || now.Sub(p.lastSettle) < restSettle {
		return nil
	}
	p.dirty = true
	return p.settle(ctx)
}
