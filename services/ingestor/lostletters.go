package ingestor

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/IBM/sarama"

	"sluice/libs/deadletters"
	"sluice/libs/fencedlog"
)

// The dead-letter stream can lose its tail while the ingest log keeps its own: the fence then tells of letters that are gone. Their records are read
// from Kafka once more and refused again, before anything else is read. The letters' own positions tell how far that has come, so that a crash in
// the middle repeats none.

// lostLetters is [from, to) of offsets of which letters are missing; empty: none are.
type lostLetters struct {
	from, to int64
}

func (l lostLetters) any() bool { return l.from < l.to }

// recoverLetters holds what the fence says of the dead letters against what their log has. first is where the partition began.
func (p *position) recoverLetters(settled, first int64, deadLetter string) error {
	have, err := p.reached(deadLetter)
	if err != nil {
		return err
	}
	p.lettered = max(settled, have)
	if !p.fresh && have < settled {
		p.missing = lostLetters{have, settled}
		if have == 0 { // not one is left
			p.missing.from = min(first, settled-1)
		}
	}
	return nil
}

// lettersThere fails when letters are gone that were in the log: whoever claims the partition next makes them anew.
func (p *partition) lettersThere(ctx context.Context) error {
	var damaged error
	err := p.letters.watch.Look(ctx, lookTimeout, func(ctx context.Context) error {
		last, err := p.letters.last(ctx)
		if err != nil {
			return err
		}
		have, err := p.pos.reached(last)
		if err != nil {
			damaged = err
			return err
		}
		if have < p.pos.lettered {
			return fmt.Errorf("%w: those up to offset %d of partition %d of %s were there, and are not any more", fencedlog.ErrTailLost, p.pos.lettered-1, p.number, p.topic)
		}
		return nil
	})
	if damaged != nil {
		return damaged
	}
	return err
}

// lookTimeout bounds a look at the last letter.
const lookTimeout = 2 * time.Second

// remakeLetters makes the letters anew that were lost, and says so in the position for good.
func (p *partition) remakeLetters(ctx context.Context) error {
	if !p.pos.missing.any() {
		return nil
	}
	// From here on nobody else appends letters of this partition.
	have, err := p.openLetters(ctx)
	if err != nil {
		return err
	}
	lost := p.pos.missing
	lost.from = max(lost.from, have)
	there, err := p.letters.count(ctx)
	if err != nil {
		return err
	}
	missing := max(p.pos.tally.DeadLetters, there) - there
	log := p.log.With("pipeline", p.rec.GetSpec().GetId(), "source", p.branch.Source, "partition", p.number)
	log.Error("the dead-letter stream lost its tail", "from", lost.from, "to", lost.to-1, "letters", missing)
	p.status.waiting(fmt.Errorf("the dead-letter stream lost its tail: reading offsets %d to %d again for the letters of it", lost.from, lost.to-1))
	p.pos.loss.text = lost.found(p.topic, p.number, missing) + "; their records are read again"
	p.pos.loss.ms = time.Now().UnixMilli()
	p.dirty = true
	// A crash before this finds the same. After it, that there was a loss is known for good.
	if err := p.settle(ctx); err != nil {
		return err
	}
	again := uint64(0)
	oldest, err := p.refusedAgain(ctx, lost, func(*sarama.ConsumerMessage, string, string) error { again++; return nil })
	if err != nil {
		return err
	}
	made, kept := uint64(0), have
	if again <= missing { // else rows that were taken then would be refused now: there is no telling which
		_, err := p.refusedAgain(ctx, lost, func(msg *sarama.ConsumerMessage, field, reason string) error {
			made, kept = made+1, msg.Offset+1
			// A crash after any of these goes on behind the last one that is in the log.
			return p.addLetter(ctx, p.letterOf(msg, field, reason))
		})
		if err != nil {
			return err
		}
	}
	if err := p.flushLetters(ctx); err != nil {
		return err
	}
	p.pos.lettered, p.pos.missing = kept, lostLetters{}
	p.pos.loss.text = lost.text(p.topic, p.number, oldest, made, missing)
	p.pos.loss.ms = time.Now().UnixMilli()
	p.dirty = true
	// A crash before this finds the letters that were made, and reads the rest of the offsets again in vain.
	if err := p.settle(ctx); err != nil {
		return err
	}
	log.Warn("lost dead letters were looked for in Kafka", "outcome", p.pos.loss.text)
	p.status.running()
	return nil
}

// refusedAgain reads the offsets once more and visits each record that is refused. oldest is the first that Kafka still has.
func (p *partition) refusedAgain(ctx context.Context, lost lostLetters, visit func(msg *sarama.ConsumerMessage, field, reason string) error) (oldest int64, err error) {
	oldest = lost.to
	scratch := p.app.newBuffer()
	for msg, err := range p.cluster.Records(ctx, p.topic, p.number, lost.from, lost.to, p.branch.Spec.GetKafka().GetIsolation()) {
		if err != nil {
			return 0, fmt.Errorf("read again for lost dead letters: %w", err)
		}
		oldest = min(oldest, msg.Offset)
		field, reason, err := p.whyRefused(ctx, msg, scratch)
		scratch.reset()
		if err == nil && reason != "" {
			err = visit(msg, field, reason)
		}
		if err != nil {
			return 0, err
		}
	}
	return oldest, nil
}

func (l lostLetters) found(topic string, partition int32, missing uint64) string {
	return fmt.Sprintf("the dead-letter stream lost its tail: %d dead letters of offsets %d to %d of partition %d of %s were lost", missing, l.from, l.to-1, partition, topic)
}

// text says what was lost and made anew. oldest is the first record that Kafka still had, missing how many letters there were.
func (l lostLetters) text(topic string, partition int32, oldest int64, made, missing uint64) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s; %d were made anew from Kafka", l.found(topic, partition, missing), made)
	if made < missing {
		fmt.Fprintf(&b, ", the others are gone: Kafka no longer has their records")
		if oldest > l.from {
			fmt.Fprintf(&b, " (it has none from %d to %d)", l.from, oldest-1)
		}
		b.WriteString(", or the pipeline's columns have changed and tell them otherwise by now")
	}
	return b.String()
}

// whyRefused tells why a record is no row; reason "": it is one.
func (p *partition) whyRefused(ctx context.Context, msg *sarama.ConsumerMessage, scratch *buffer) (field, reason string, err error) {
	if msg.Value == nil {
		return "", "", nil
	}
	row, reject := p.parser.Parse(p.record(msg))
	if reject == nil && len(msg.Value) < p.large {
		reject = p.parser.AppendTo(scratch.columns)
	} else if reject == nil {
		release, err := p.hold(ctx, largeFactor*len(msg.Value))
		if err != nil {
			return "", "", err
		}
		defer release()
		alone := p.app.newBuffer()
		if reject = p.parser.AppendTo(alone.columns); reject == nil {
			alone.rows.Add(row.Row, p.fields)
			if alone.encode(p.envelope(false), p.app.limit) != nil {
				return "", p.tooLarge(msg), nil
			}
		}
	}
	if reject != nil {
		return reject.Field, reject.Reason, nil
	}
	return "", "", nil
}

// openLetters becomes the writer of the partition's letters and tells the offset behind the last one. Only then can whoever had the partition
// before append no more.
func (p *partition) openLetters(ctx context.Context) (have int64, err error) {
	writer, last, err := p.letters.open(ctx)
	if err != nil {
		return 0, err
	}
	if have, err = p.pos.reached(last); err != nil {
		return 0, err
	}
	p.letters.writer = writer
	return have, nil
}

// countLetters is how letters are counted in their log.
func (s *session) countLetters(number int32) func(context.Context) (uint64, error) {
	return func(ctx context.Context) (uint64, error) {
		return deadletters.Count(ctx, s.service.deps.JS, s.rec.GetSpec().GetId(), lettersWriter(s.branch.Source, number), lettersLane)
	}
}
