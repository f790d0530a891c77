package sink

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	eventv1 "sluice/gen/sluice/event/v1"
	"sluice/libs/batch"
	"sluice/libs/fencedlog"
	"sluice/services/sink/internal/block"
)

// located is a dead letter whose original is still to be fetched.
type located struct {
	*eventv1.DeadLetter
	topicID []byte
}

// locator finds in Kafka's terms which events rows of a block are, by reading the block's messages again: to keep the
// coordinates of all rows of all blocks, for the few that are refused, would cost more. It is asked for rows in
// rising order, group by group, so it reads on where it stood.
type locator struct {
	js       jetstream.JetStream
	upstream fencedlog.Log
	lane     int
	waiting  func(error)

	name   block.Name
	reader *fencedlog.Reader
	view   batch.View
	before int // rows of the block before the message in view
}

// find returns the coordinates of a row of the block. It waits for NATS as long as it takes.
func (l *locator) find(ctx context.Context, name block.Name, row int) (located, error) {
	waited := false
	for backoff := firstBackoff; ; backoff = min(2*backoff, lastBackoff) {
		found, err := l.attempt(ctx, name, row)
		switch {
		case err == nil:
			if waited {
				l.waiting(nil)
			}
			return found, nil
		case ctx.Err() != nil:
			return found, context.Cause(ctx)
		case errors.Is(err, fencedlog.ErrPurged), errors.Is(err, errNotWhatItWas):
			return found, err
		}
		waited = true
		l.close()
		l.waiting(fmt.Errorf("find a refused event: %w", err))
		if err := sleep(ctx, backoff); err != nil {
			return found, err
		}
	}
}

var errNotWhatItWas = errors.New("the log is not what it was")

func (l *locator) attempt(ctx context.Context, name block.Name, row int) (located, error) {
	if l.reader == nil || l.name != name || row < l.before {
		l.close()
		reader, err := fencedlog.OpenReader(ctx, l.js, l.upstream, l.lane, name.First)
		if err != nil {
			return located{}, err
		}
		l.reader, l.name, l.before, l.view = reader, name, 0, batch.View{}
	}
	for row >= l.before+l.view.Selected {
		msg, err := l.reader.Next(ctx)
		if err != nil {
			return located{}, err
		}
		if msg.Sequence > name.Last {
			return located{}, fmt.Errorf("messages %d to %d of %s do not hold row %d: %w", name.First, name.Last, l.upstream.Stream(), row, errNotWhatItWas)
		}
		l.before += l.view.Selected
		if err := l.view.Parse(msg.Data); err != nil {
			return located{}, fmt.Errorf("message %d of %s: %w: %w", msg.Sequence, l.upstream.Stream(), err, errNotWhatItWas)
		}
	}
	nth := l.before
	for at := range l.view.Rows {
		if !l.view.Selects(at) {
			continue
		}
		if nth == row {
			return located{&eventv1.DeadLetter{
				Topic: string(l.view.Topic), Partition: l.view.Partition, Offset: l.view.Offset(at),
				Stage: stageName, RefusedMs: time.Now().UnixMilli(), SchemaRevision: l.view.SchemaRevision,
			}, slices.Clone(l.view.TopicID)}, nil
		}
		nth++
	}
	return located{}, fmt.Errorf("a message of %s selects %d rows, but %d are to be selected: %w", l.upstream.Stream(), nth-l.before, l.view.Selected, errNotWhatItWas)
}

func (l *locator) close() {
	if l.reader != nil {
		l.reader.Close()
		l.reader = nil
	}
}
