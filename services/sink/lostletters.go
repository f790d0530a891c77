package sink

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"sluice/libs/deadletters"
	"sluice/libs/fencedlog"
)

// The dead-letter stream can lose its tail while the position keeps its own, which says which letter was the last. What lacks is
// made anew from Kafka's records, before anything else is sent.

// makingAnew is told while letters are made anew. A crash then leaves it in the position, and the next to take the lane says how it ended.
const makingAnew = "; they are made anew from Kafka"

// mendLetters makes sure that the dead-letter stream has the letters that the position knows of.
func (l *lane) mendLetters(ctx context.Context) error {
	had := l.letters.had
	lost := deadletters.Lost(ctx, l.js, l.upstream.Pipeline, had)
	if !errors.Is(lost, fencedlog.ErrTailLost) {
		return lost
	}
	if err := l.letters.open(ctx); err != nil {
		return err
	}
	defer l.letters.writer.Close()
	loss := l.letters.writer.Missing(had)
	if loss.Lost > 0 {
		found := fmt.Sprintf("lane %d: %s", l.index, loss)
		l.log.Error("the dead-letter stream lost its tail", "lane", l.index, "letters", loss.Lost, "after", loss.After, "up_to", loss.UpTo)
		l.heal(found + makingAnew)
		// A crash before this finds the same. After it, that there was a loss is known for good.
		if err := l.write(ctx, l.pos.stored.GetPending()); err != nil {
			return err
		}
		l.trouble.sending(errors.New(found + makingAnew))
		// A crash in it finds which letters were made, by their numbers.
		loss, err := l.letters.writer.Remake(ctx, had)
		if err != nil {
			return fmt.Errorf("%s: %w", found, err)
		}
		l.told = l.told[:len(l.told)-1]
		l.heal(fmt.Sprintf("lane %d: %s", l.index, loss.Outcome()))
		l.log.Warn("lost dead letters were made anew", "lane", l.index, "letters", loss.Lost, "made", loss.Made)
	} else if what := l.healed.GetWhat(); strings.HasSuffix(what, makingAnew) {
		l.heal(strings.TrimSuffix(what, makingAnew) + "; they were made anew")
	}
	l.letters.had = l.letters.writer.Mark()
	position, err := deadletters.PositionOf(l.letters.had.GetPosition())
	if err != nil {
		return err
	}
	if l.letters.last, err = parseLetterPosition(position); err != nil {
		return err
	}
	// A crash before this finds the letters that were made.
	return l.write(ctx, l.pos.stored.GetPending())
}
