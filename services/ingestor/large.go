package ingestor

import (
	"context"
	"fmt"

	"github.com/IBM/sarama"

	"sluice/libs/rows"
)

// holdLarge waits until there is memory for so many bytes.
func (s *Service) holdLarge(ctx context.Context, bytes int) (release func(), err error) {
	n := min(int64(bytes), largeBudget)
	if err := s.large.Acquire(ctx, n); err != nil {
		return nil, context.Cause(ctx)
	}
	return func() { s.large.Release(n) }, nil
}

// takeLarge sends an event alone, so that whether it fits a message is known before its neighbours
// share its fate.
func (p *partition) takeLarge(ctx context.Context, msg *sarama.ConsumerMessage, row rows.Row, l *lane) error {
	if err := p.seal(ctx, l, sealed{}); err != nil {
		return err
	}
	release, err := p.hold(ctx, largeFactor*len(msg.Value))
	if err != nil {
		return err
	}
	if reject := p.parser.AppendTo(l.fill.columns); reject != nil {
		release()
		return p.refuse(ctx, msg, reject.Field, reject.Reason)
	}
	before := p.pos
	p.advance(msg)
	p.add(l, msg, row)
	err = l.fill.encode(p.envelope(false), p.app.limit)
	if err == nil && !p.logged(msg, row, l) {
		return p.seal(ctx, l, sealed{encoded: true, release: release})
	}
	l.fill = p.app.newBuffer() // not the large one's memory
	release()
	p.pending--
	if err != nil {
		p.pos.next, p.pos.tally = before.next, before.tally
		p.pos.maxEvent, p.pos.hasMax = before.maxEvent, before.hasMax
		return p.refuse(ctx, msg, "", p.tooLarge(msg))
	}
	return nil
}

func (p *partition) tooLarge(msg *sarama.ConsumerMessage) string {
	return fmt.Sprintf("the event of %d bytes does not fit into a message of the log: it may have %d bytes there; raise max_payload of the NATS server or the limit of the log", len(msg.Value), p.app.limit)
}
