package fold

import (
	"context"
	"fmt"
	"slices"
	"time"

	eventv1 "sluice/gen/sluice/event/v1"
	"sluice/libs/batch"
	"sluice/libs/fencedlog"
)

// How a lane goes on after a log has lost its tail: ADR 11.
//
// The output log: its last message of the lane lies before what the checkpoint covers. The lane goes back to an earlier checkpoint, and the replay
// from there puts out what was lost. Such a checkpoint is kept until the next stage has what was put out before it, and would have it even if it went back itself.
//
// The input log: the message that the checkpoint covers last, or one that was put out, is not there any more, and its sequence may
// be another message's now. The same rows come again in other messages. What was put out tells which of them are out already; those go into
// the state first, all of them, so that no other row is decided without them. Then the lane reads on from the last message that it shares with the log, and
// leaves out what was taken. Sequences begin anew, and so does the epoch of positions. A core whose outputs do not tell all that was taken
// folds them again instead, and leaves out what is out: see Replayer.

// Rememberer is a Core that can take rows into its state without putting anything out. Without it a lane that has put out more than its
// checkpoint covers stands still when the input log has lost its tail.
type Rememberer interface {
	// Remember takes the selected rows of a batch into the state. They were put out, or dropped, before.
	Remember(Input) error
}

// maxMarks bounds the marks in a checkpoint.
const maxMarks = 16

// mark notes a message that was taken. Beyond maxMarks that one goes whose neighbours are closest.
func mark(marks []*eventv1.Mark, m fencedlog.Mark) []*eventv1.Mark {
	n := len(marks)
	if m.Sequence == 0 || n > 0 && marks[n-1].GetSequence() >= m.Sequence {
		return marks
	}
	marks = append(slices.Clone(marks), &eventv1.Mark{Sequence: m.Sequence, TimeNs: m.Time.UnixNano()})
	if len(marks) <= maxMarks {
		return marks
	}
	gap := func(i int) uint64 { return marks[i+1].GetSequence() - marks[i-1].GetSequence() }
	best := 1
	for i := 2; i < len(marks)-1; i++ {
		if gap(i) < gap(best) {
			best = i
		}
	}
	return slices.Delete(marks, best, best+1)
}

// begun is the marks of a lane that has noted what it took from the beginning on: the first has sequence 0. A checkpoint that an earlier version has begun lacks
// it; what is taken cannot be told from what is new there.
func begun(m *eventv1.Manifest) []*eventv1.Mark {
	if m.GetCoveredSequence() == 0 && len(m.GetMarks()) == 0 {
		return []*eventv1.Mark{{}}
	}
	return mark(m.GetMarks(), fencedlog.Mark{Sequence: m.GetCoveredSequence(), Time: time.Unix(0, m.GetCoveredTimeNs())})
}

// inputLost tells why the input log is not the one that the checkpoint and the outputs were made from; nil if it is.
func (l *lane) inputLost(ctx context.Context, m *eventv1.Manifest, published position, past fencedlog.Recovered) error {
	err := fencedlog.Verify(ctx, l.JS, l.Input, m.GetCoveredSequence(), time.Unix(0, m.GetCoveredTimeNs()))
	if err != nil {
		return err
	}
	if published.epoch > m.GetEpoch() {
		return fmt.Errorf("%w: %s has outputs of lane %d of after that, the checkpoint is of before", fencedlog.ErrTailLost, l.Output.Stream(), l.Lane)
	}
	if err := l.refusedLost(ctx, m, published); err != nil {
		return err
	}
	if published.epoch < m.GetEpoch() || published.step <= m.GetCoveredSequence() {
		return nil
	}
	_, last, err := fencedlog.Bounds(ctx, l.JS, l.Input)
	if err != nil {
		return err
	}
	if last < published.step {
		return fmt.Errorf("%w: %s ends at sequence %d, put out is %d", fencedlog.ErrTailLost, l.Input.Stream(), last, published.step)
	}
	// Is what has been settled by still there?
	if settled, err := positionOf(string(past.Body)); err == nil && settled.epoch == m.GetEpoch() && past.Input.Sequence > m.GetCoveredSequence() {
		if err := fencedlog.Verify(ctx, l.JS, l.Input, past.Input.Sequence, past.Input.Time); err != nil {
			return err
		}
	}
	// Is the message there the one that was put out?
	made, ok := newest(past)
	if p, err := positionOf(made.Position); err != nil || !ok || p.step != published.step {
		return err // its output has been purged, or it had none
	}
	in, ok, err := fencedlog.At(ctx, l.JS, l.Input, published.step)
	if err != nil || !ok {
		return err
	}
	if !sameBatch(in, made) {
		return fmt.Errorf("%w: sequence %d of %s is not the message that was put out as that", fencedlog.ErrTailLost, published.step, l.Input.Stream())
	}
	return nil
}

// refusedLost is inputLost for rows that were refused after all that was put out. To take their letters for those of what is there now would
// leave letters out.
func (l *lane) refusedLost(ctx context.Context, m *eventv1.Manifest, published position) error {
	r := l.refused
	if r.epoch != m.GetEpoch() || r.step <= m.GetCoveredSequence() || published.covers(position{r.epoch, r.step, whole}) {
		return nil
	}
	_, last, err := fencedlog.Bounds(ctx, l.JS, l.Input)
	if err != nil {
		return err
	}
	if last < r.step {
		return fmt.Errorf("%w: %s ends at sequence %d, refused were rows of %d", fencedlog.ErrTailLost, l.Input.Stream(), last, r.step)
	}
	letter, err := fencedlog.LastMessage(ctx, l.JS, fencedlog.Log{Pipeline: l.Pipeline, Stage: fencedlog.DeadLetters}, l.Lane, l.lettersWriter())
	if err != nil {
		return err
	}
	in, ok, err := fencedlog.At(ctx, l.JS, l.Input, r.step)
	if err != nil || !ok || letter.Sequence == 0 || !in.Time.After(letter.Time.Add(clockSlack)) {
		return err
	}
	return fmt.Errorf("%w: sequence %d of %s is not the message that rows were refused of", fencedlog.ErrTailLost, r.step, l.Input.Stream())
}

// lettersWriter is the name of the lane's writer in the dead-letter log.
func (l *lane) lettersWriter() string { return l.Stage + "-" + l.Options.writer() }

// newest is the last message that the lane has appended in any output lane.
func newest(past fencedlog.Recovered) (m fencedlog.Last, ok bool) {
	for _, last := range past.Last {
		if last.Sequence > m.Sequence {
			m, ok = last, true
		}
	}
	return m, ok
}

// sameBatch tells whether an output may have been made from that input.
func sameBatch(in fencedlog.Message, out fencedlog.Last) bool {
	var from, made batch.View
	if from.Parse(in.Data) != nil || made.Parse(out.Data) != nil {
		return true // not to be told; the step will say what is wrong
	}
	if len(made.Origins) > 0 || made.Rows == 0 && len(made.Topic) == 0 {
		// Rows of many batches. What was stored a while after the output was made cannot be what it was made from.
		return (len(made.Origins) == 0 || from.ArrivalMS == made.ArrivalMS) && !in.Time.After(out.Time.Add(clockSlack))
	}
	// Read anew from Kafka, a batch has arrived at another time.
	return from.ArrivalMS == made.ArrivalMS && from.Partition == made.Partition && string(from.Source) == string(made.Source) &&
		string(from.TopicID) == string(made.TopicID)
}

// clockSlack is how far apart the clocks of two servers may be.
const clockSlack = time.Second

// heal makes the lane fit for an input log that has lost its tail. The core has the state of m; lost says what is wrong. Nothing durable has
// happened when it fails; after the checkpoint that it makes the lane goes on as any other.
func (l *lane) heal(ctx context.Context, m *eventv1.Manifest, past fencedlog.Recovered, lost error) error {
	f := l.fold
	if f.marks[0].GetSequence() != 0 {
		return fmt.Errorf("%w; it cannot be healed, since an earlier version has begun the checkpoint, and did not note which rows it took", lost)
	}
	if err := l.noticed(ctx); err != nil {
		return err
	}
	known, tally := f.taken.Clone(), (*batch.Tally)(nil)
	var err error
	if _, ok := l.core.(Replayer); !ok {
		if known, tally, err = l.known(ctx, m, past); err != nil {
			return err
		}
	}
	from, err := l.shared(ctx, m)
	if err != nil {
		return err
	}
	first, last, err := fencedlog.Bounds(ctx, l.JS, l.Input)
	if err != nil {
		return err
	}
	if from.Sequence == 0 && first > 1 {
		from.Sequence = first - 1
	}
	var had *batch.Taken
	switch core := l.core.(type) {
	case Replayer:
		if had, err = l.nextBeyond(ctx, lost); err != nil {
			return err
		}
		if f.replay, err = l.relive(ctx, core, m, from, lost, had); err != nil {
			return err
		}
	case Rememberer:
		if err := l.remember(ctx, core, from, known); err != nil {
			return err
		}
		if tally != nil {
			f.tally = *tally
		}
	default:
		if f.published.epoch > m.GetEpoch() || f.published.step > m.GetCoveredSequence() || len(known.Ahead(f.taken)) > 0 {
			return fmt.Errorf("%w; stage %s had put out more than its checkpoint covers, and cannot make up for that", lost, l.Stage)
		}
	}
	f.taken = known
	f.healed.What = fmt.Sprintf("%v. Lane %d had read it up to sequence %d of %s and has read on behind sequence %d; rows that it had taken before are left out",
		lost, l.Lane, m.GetCoveredSequence(), time.Unix(0, m.GetCoveredTimeNs()).UTC().Format(time.RFC3339), from.Sequence)
	if f.replay != nil {
		f.healed.What += fmt.Sprintf("; what it had put out after its checkpoint is not put out again (replayed up to sequence %d)", f.replay.GetUntilSequence())
		if had != nil {
			f.healed.What += fmt.Sprintf(", but for what %s has lost: stage %s has that, and leaves out what comes again of it", l.Output.Stream(), l.Next)
		}
	}
	if l.told != "" {
		f.healed.What = l.told + "; " + f.healed.What
	}
	f.healed.Ms = time.Now().UnixMilli()
	f.epoch = max(m.GetEpoch(), f.published.epoch) + 1
	f.covered, f.marks = from, marksUpTo(f.marks, from.Sequence)
	f.published = position{epoch: f.epoch, step: from.Sequence, part: whole}
	l.Log.Warn("log lost its tail: healed", "log", l.Input.Stream(), "ends", last, "covered", m.GetCoveredSequence(), "from", from.Sequence, "reason", lost)
	l.settled = from
	// A crash after the first of its steps finds outputs of a later epoch than the checkpoint's, and does all of this again.
	return l.anew(ctx)
}

// anew makes what the lane is now its past: the fence says where its outputs go on from, and the checkpoints before are of logs that are no more.
func (l *lane) anew(ctx context.Context) error {
	if err := l.writer.SettleOf(ctx, []byte(l.fold.published.String()), l.settled); err != nil {
		return err
	}
	s := &save{manifest: l.manifest()}
	s.chunks = l.core.Checkpoint(s.manifest)
	l.state.Forget()
	l.noteOutput(s.manifest)
	// A crash after this finds a lane in good order.
	return l.save(ctx, s)
}

func marksUpTo(marks []*eventv1.Mark, sequence uint64) []*eventv1.Mark {
	return slices.DeleteFunc(slices.Clone(marks), func(m *eventv1.Mark) bool { return m.GetSequence() > sequence })
}

// shared is the newest message that was taken and that the log still holds; none: everything in the log may be new.
func (l *lane) shared(ctx context.Context, m *eventv1.Manifest) (fencedlog.Mark, error) {
	marks := mark(m.GetMarks(), fencedlog.Mark{Sequence: m.GetCoveredSequence(), Time: time.Unix(0, m.GetCoveredTimeNs())})
	for _, candidate := range slices.Backward(marks) {
		if candidate.GetSequence() == 0 {
			break
		}
		at := fencedlog.Mark{Sequence: candidate.GetSequence(), Time: time.Unix(0, candidate.GetTimeNs())}
		held, err := fencedlog.Holds(ctx, l.JS, l.Input, at)
		if err != nil || held {
			return at, err
		}
	}
	return fencedlog.Mark{Time: time.Unix(0, 0)}, nil
}
