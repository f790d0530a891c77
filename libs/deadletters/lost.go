package deadletters

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"google.golang.org/protobuf/proto"

	eventv1 "sluice/gen/sluice/event/v1"
	"sluice/libs/fencedlog"
)

// The dead-letter log can lose its tail while the stage's checkpoint keeps its own. The checkpoint has a mark of the lane's last letter, which
// tells. Each letter has a number, and which rows were refused last is noted in the state bucket by these, so that their letters can be made
// anew from Kafka's records, under the positions that they had. The numbers of what is in the log tell how far that has come.

// Lost tells, with fencedlog.ErrTailLost, that the log no longer has the letter that a checkpoint knows as the last one.
func Lost(ctx context.Context, js jetstream.JetStream, pipeline string, had *eventv1.LettersMark) error {
	at := had.GetMessage()
	return fencedlog.Verify(ctx, js, logOf(pipeline), at.GetSequence(), time.Unix(0, at.GetTimeNs()))
}

func logOf(pipeline string) fencedlog.Log {
	return fencedlog.Log{Pipeline: pipeline, Stage: fencedlog.DeadLetters}
}

// Loss is what a log has lost, and what was made of it.
type Loss struct {
	Lost, Made uint64
	// After is the position of the last letter before those that are lost, "" when not one was left; UpTo that of the last of them.
	After, UpTo string
}

// Missing is what the log has lost of what a checkpoint knows. Lost is 0 when it has all of it, which it also has after Remake.
func (w *Writer) Missing(had *eventv1.LettersMark) Loss {
	loss := Loss{After: w.last.GetPosition(), UpTo: had.GetPosition()}
	if have := w.last.GetCount(); have < had.GetCount() {
		loss.Lost = had.GetCount() - have
	}
	return loss
}

// String says what was lost, not what was made of it.
func (l Loss) String() string {
	after := "not one is left"
	if l.After != "" {
		after = "the last one left is of " + l.After
	}
	return fmt.Sprintf("the dead-letter stream lost its tail: %d dead letters up to that of %s were lost, %s", l.Lost, l.UpTo, after)
}

// Outcome says what was made anew of what was lost.
func (l Loss) Outcome() string {
	text := fmt.Sprintf("%s; %d were made anew", l, l.Made)
	if l.Made < l.Lost {
		text += fmt.Sprintf(", %d are gone: which rows they were of is not noted", l.Lost-l.Made)
	}
	return text
}

// Remake makes the letters anew that are missing, as far as their rows are noted. A crash in the middle, and Remake again, repeats none.
func (w *Writer) Remake(ctx context.Context, had *eventv1.LettersMark) (Loss, error) {
	loss := w.Missing(had)
	if loss.Lost == 0 {
		return loss, nil
	}
	rows, err := w.notes.between(ctx, w.last.GetCount(), had.GetCount())
	if err != nil {
		return loss, err
	}
	var letters []*eventv1.DeadLetter
	var last *eventv1.RefusedRow
	size := 0
	send := func() error {
		if last == nil {
			return nil
		}
		position, done, err := parse(last.GetPosition())
		if err != nil {
			return err
		}
		// Some before them may not be noted: they count as made, or the numbers would be given out twice.
		before := last.GetNumber() - uint64(len(letters))
		if before > w.last.GetCount() {
			next := proto.CloneOf(w.last)
			if next == nil {
				next = &eventv1.LettersMark{}
			}
			next.Count = before
			w.last = next
		}
		if err := w.send(ctx, position, done, letters); err != nil {
			return err
		}
		loss.Made += uint64(len(letters))
		letters, last, size = nil, nil, 0
		return nil
	}
	for _, row := range rows {
		letter, err := w.letter(ctx, refusalOf(row))
		if err != nil {
			return loss, err
		}
		letter.RefusedMs = row.GetRefusedMs()
		n := proto.Size(letter) + letterOverhead
		apart := last != nil && (row.GetNumber() != last.GetNumber()+1 || !sameAppend(row, last))
		if apart || size > 0 && size+n > w.room() {
			if err := send(); err != nil {
				return loss, err
			}
		}
		letters, last = append(letters, letter), row
		size += n
	}
	return loss, send()
}

// sameAppend tells whether the letters of two rows may be in one message.
func sameAppend(a, b *eventv1.RefusedRow) bool {
	p, _, err := parse(a.GetPosition())
	q, _, err2 := parse(b.GetPosition())
	return err == nil && err2 == nil && p == q
}

// markOf describes the writer's last message.
func markOf(ctx context.Context, js jetstream.JetStream, pipeline, writer string, lane int, last fencedlog.Last) (*eventv1.LettersMark, error) {
	if last.Sequence == 0 {
		return nil, nil //nolint:nilnil // none is an answer
	}
	var message eventv1.DeadLetterBatch
	if err := proto.Unmarshal(last.Data, &message); err != nil {
		return nil, fmt.Errorf("dead letters at sequence %d: %w", last.Sequence, err)
	}
	mark := &eventv1.LettersMark{
		Count: message.GetCount(), Position: last.Position, Message: &eventv1.Mark{Sequence: last.Sequence, TimeNs: last.Time.UnixNano()},
	}
	if mark.GetCount() == 0 { // of an earlier version
		count, err := Count(ctx, js, pipeline, writer, lane)
		if err != nil {
			return nil, err
		}
		mark.Count = count
	}
	return mark, nil
}

// stored tells when a message was stored. It waits for NATS as long as it takes: without the time there is no mark.
func (w *Writer) stored(ctx context.Context, sequence uint64) (at time.Time, err error) {
	waited := false
	for backoff := firstBackoff; ; backoff = min(2*backoff, lastBackoff) {
		m, ok, err := fencedlog.At(ctx, w.js, logOf(w.pipeline), sequence)
		switch {
		case err == nil:
			if waited {
				w.options.Wait(nil)
			}
			if !ok {
				return at, fmt.Errorf("%w: dead letters at sequence %d are gone right after they were appended", fencedlog.ErrTailLost, sequence)
			}
			return m.Time, nil
		case ctx.Err() != nil:
			return at, context.Cause(ctx)
		case errors.Is(err, jetstream.ErrStreamNotFound):
			return at, err
		}
		waited = true
		w.options.Wait(fmt.Errorf("look at a dead letter: %w", err))
		if err := sleep(ctx, backoff); err != nil {
			return at, err
		}
	}
}
