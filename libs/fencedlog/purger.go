package fencedlog

import (
	"context"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// Purger purges a log a while after its messages are needed no more. Positions and checkpoints are kept in a bucket; when an earlier copy of it is
// put back, they want messages again that were covered since. The zero value purges at once. It is used by one goroutine.
//
// A log that fills up is purged at once.
type Purger struct {
	// After is how long messages stay.
	After time.Duration
	marks []purgeMark // rising, the oldest first
	due   uint64      // what may go by now
}

// purgeMark is what a purge was asked to keep.
type purgeMark struct {
	at   time.Time
	keep uint64
}

// markShare of After is the least time between two marks: there are few.
const markShare = 64

// Purge is the function Purge, a while later. What lies behind keep now stays whatever earlier calls have said.
func (p *Purger) Purge(ctx context.Context, js jetstream.JetStream, l Log, keep uint64, now time.Time) error {
	if p.After <= 0 {
		return purge(ctx, js, l, keep, keep)
	}
	for len(p.marks) > 0 && now.Sub(p.marks[0].at) >= p.After {
		p.due, p.marks = p.marks[0].keep, p.marks[1:]
	}
	if last := len(p.marks) - 1; last < 0 || now.Sub(p.marks[last].at) >= p.After/markShare {
		p.marks = append(p.marks, purgeMark{now, keep})
	}
	return purge(ctx, js, l, keep, min(keep, p.due))
}
