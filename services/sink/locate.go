package sink

import (
	"context"
	"errors"
	"fmt"

	"github.com/nats-io/nats.go/jetstream"

	controlv1 "sluice/gen/sluice/control/v1"
	"sluice/libs/batch"
	"sluice/libs/deadletters"
	"sluice/libs/fencedlog"
	"sluice/services/sink/internal/block"
)

// locator finds in Kafka's terms which events rows of a block are, by reading the block's messages again: to keep the
// coordinates of all rows of all blocks, for the few that are refused, would cost more. It is asked for rows in
// rising order, group by group, so it reads on where it stood.
type locator struct {
	js       jetstream.JetStream
	upstream fencedlog.Log
	lane     int
	left     left // of the join, if there is one
	waiting  func(error)

	origin origin // of the block that is being sent
	name   block.Name
	reader *fencedlog.Reader
	sieve  *sieve
	view   batch.View
	before int // rows of the block before the message in view
}

// origin is where in the log a block's rows are.
type origin struct {
	after fencedlog.Mark // what was covered before it
	start snapshot       // what was taken before it
	upTo  *snapshot      // of a block whose messages are lost: its rows are in other messages now
}

// find returns the record of a row of the block. It waits for NATS as long as it takes.
func (l *locator) find(ctx context.Context, name block.Name, row int) (deadletters.Refusal, error) {
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

func (l *locator) attempt(ctx context.Context, name block.Name, row int) (deadletters.Refusal, error) {
	if l.reader == nil || l.name != name || row < l.before {
		l.close()
		sieve, err := newSieve(l.upstream, l.origin.start, l.origin.upTo)
		if err != nil {
			return deadletters.Refusal{}, fmt.Errorf("%w: %w", err, errNotWhatItWas)
		}
		reader, err := fencedlog.OpenReaderAfter(ctx, l.js, l.upstream, l.lane, l.origin.after)
		if err != nil {
			return deadletters.Refusal{}, err
		}
		l.reader, l.name, l.before, l.view, l.sieve = reader, name, 0, batch.View{}, sieve
	}
	for row >= l.before+l.view.Selected {
		msg, err := l.reader.Next(ctx)
		if err != nil {
			return deadletters.Refusal{}, err
		}
		if msg.Sequence > name.Last && l.origin.upTo == nil {
			return deadletters.Refusal{}, fmt.Errorf("messages %d to %d of %s do not hold row %d: %w", name.First, name.Last, l.upstream.Stream(), row, errNotWhatItWas)
		}
		l.before += l.view.Selected
		if err := l.view.Parse(msg.Data); err != nil {
			return deadletters.Refusal{}, fmt.Errorf("message %d of %s: %w: %w", msg.Sequence, l.upstream.Stream(), err, errNotWhatItWas)
		}
		if _, err = l.sieve.sift(&msg, &l.view); err == nil {
			err = l.sieve.progress.admit(&msg, &l.view)
		}
		if err != nil {
			return deadletters.Refusal{}, fmt.Errorf("message %d of %s: %w: %w", msg.Sequence, l.upstream.Stream(), err, errNotWhatItWas)
		}
	}
	nth := l.before
	for at := range l.view.Rows {
		if !l.view.Selects(at) {
			continue
		}
		if nth == row {
			return l.refusal(at), nil
		}
		nth++
	}
	return deadletters.Refusal{}, fmt.Errorf("a message of %s selects %d rows, but %d are to be selected: %w", l.upstream.Stream(), nth-l.before, l.view.Selected, errNotWhatItWas)
}

// left is the source of which a join's rows are named.
type left struct{ source, topic string }

func leftOf(p *controlv1.Pipeline) left {
	name := p.GetJoin().GetLeft()
	return left{name, p.GetSources()[name].GetKafka().GetTopic()}
}

// refusal names the record of a row in view. Of a joined row, that is the left one.
func (l *locator) refusal(row int) deadletters.Refusal {
	r := deadletters.Refusal{Offset: l.view.Offset(row), SchemaRevision: l.view.SchemaRevision}
	if len(l.view.Origins) > 0 {
		r.Source, r.Topic, r.Partition = l.left.source, l.left.topic, l.view.Origin(row).LeftPartition
		return r
	}
	r.Topic, r.Partition = string(l.view.Topic), l.view.Partition
	copy(r.TopicID[:], l.view.TopicID)
	return r
}

func (l *locator) close() {
	if l.reader != nil {
		l.reader.Close()
		l.reader = nil
	}
}
