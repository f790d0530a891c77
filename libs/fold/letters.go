package fold

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	eventv1 "sluice/gen/sluice/event/v1"
	"sluice/libs/deadletters"
	"sluice/libs/fencedlog"
)

// The dead-letter stream can lose its tail while the checkpoint keeps its own, which says which letter was the last. Letters of rows that were refused
// behind the checkpoint come again with the replay. Those before it are made anew from Kafka's records, before the lane does anything else.

// makingAnew is told while letters are made anew. A crash then leaves it in the checkpoint, and the next to take the lane says how it ended.
const makingAnew = "; they are made anew from Kafka"

// lettersMark is the lane's last letter; nil: there is none.
func (l *lane) lettersMark() *eventv1.LettersMark {
	if l.letters == nil {
		return nil
	}
	return l.letters.Mark()
}

// mendLetters makes sure that the dead-letter stream has the letters that the checkpoint knows of. current: m is the one that is stored.
func (l *lane) mendLetters(ctx context.Context, m *eventv1.Manifest, current bool) error {
	had := m.GetLetters()
	if l.letters == nil || had == nil {
		return nil
	}
	lost := deadletters.Lost(ctx, l.JS, l.Pipeline, had)
	if !errors.Is(lost, fencedlog.ErrTailLost) {
		return lost
	}
	if loss := l.letters.Missing(had); loss.Lost > 0 {
		found := fmt.Sprintf("lane %d: %s", l.Lane, loss)
		l.Log.Error("the dead-letter stream lost its tail", "lane", l.Lane, "letters", loss.Lost, "after", loss.After, "up_to", loss.UpTo)
		l.tell(found + makingAnew)
		// A crash before this finds the same. After it, that there was a loss is known for good.
		if current {
			stored := l.state.Saved()
			stored.Healed = l.fold.healing()
			if err := l.save(ctx, &save{manifest: stored}); err != nil {
				return err
			}
		}
		l.waiting(errors.New(found + makingAnew))
		// A crash in it finds which letters were made, by their numbers.
		loss, err := l.letters.Remake(ctx, had)
		if err != nil {
			return fmt.Errorf("%s: %w", found, err)
		}
		l.tell(fmt.Sprintf("lane %d: %s", l.Lane, loss.Outcome()))
		l.Log.Warn("lost dead letters were made anew", "lane", l.Lane, "letters", loss.Lost, "made", loss.Made)
	} else if what := l.fold.healed.GetWhat(); strings.HasSuffix(what, makingAnew) {
		l.tell(strings.TrimSuffix(what, makingAnew) + "; they were made anew")
	}
	position, err := deadletters.PositionOf(l.letters.Mark().GetPosition())
	if err != nil {
		return err
	}
	if l.refused, err = positionOf(position); err != nil {
		return fmt.Errorf("last dead letters of lane %d: %w", l.Lane, err)
	}
	if !current {
		return nil // the checkpoint that comes of going back says it
	}
	stored := l.state.Saved()
	stored.Healed, stored.Letters = l.fold.healing(), l.letters.Mark()
	// A crash before this finds the letters that were made.
	return l.save(ctx, &save{manifest: stored})
}

// tell says for good what was found, in the place of what take has said before.
func (l *lane) tell(what string) {
	l.told = what
	l.fold.healed.What, l.fold.healed.Ms = strings.ToValidUTF8(what, "\uFFFD"), time.Now().UnixMilli()
}
