package fold

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
	"time"

	"google.golang.org/protobuf/proto"

	eventv1 "sluice/gen/sluice/event/v1"
	"sluice/libs/batch"
	"sluice/libs/checkpoint"
	"sluice/libs/fencedlog"
)

// How a lane goes on after a log has lost its tail: ADR 11.
//
// The output log: its last message of the lane lies before what the checkpoint covers. The lane goes back to an earlier checkpoint, and the replay
// from there puts out what was lost. Such a checkpoint is kept until the next stage has what was put out before it.
//
// The input log: the message that the checkpoint covers last, or one that was put out, is not there any more, and its sequence may
// be another message's now. The same rows come again in other messages. What was put out tells which of them are out already; those go into
// the state first, all of them, so that no other row is decided without them. Then the lane reads on from the last message that it shares with the log, and
// leaves out what was taken. Sequences begin anew, and so does the epoch of positions.

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
		return !in.Time.After(out.Time.Add(clockSlack))
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
	known, tally, err := l.known(ctx, m, past)
	if err != nil {
		return err
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
	rememberer, ok := l.core.(Rememberer)
	beyond := f.published.epoch > m.GetEpoch() || f.published.step > m.GetCoveredSequence() || len(known.Ahead(f.taken)) > 0
	if beyond && !ok {
		return fmt.Errorf("%w; stage %s had put out more than its checkpoint covers, and cannot make up for that", lost, l.Stage)
	}
	if ok {
		if err := l.remember(ctx, rememberer, from, known); err != nil {
			return err
		}
	}
	if tally != nil {
		f.tally = *tally
	}
	f.taken = known
	f.healed.What = fmt.Sprintf("%v. Lane %d had read it up to sequence %d of %s and has read on behind sequence %d; rows that it had taken before are left out",
		lost, l.Lane, m.GetCoveredSequence(), time.Unix(0, m.GetCoveredTimeNs()).UTC().Format(time.RFC3339), from.Sequence)
	f.healed.Ms = time.Now().UnixMilli()
	f.epoch = max(m.GetEpoch(), f.published.epoch) + 1
	f.covered, f.marks = from, marksUpTo(f.marks, from.Sequence)
	f.published = position{epoch: f.epoch, step: from.Sequence, part: whole}
	l.Log.Warn("log lost its tail: healed", "log", l.Input.Stream(), "ends", last, "covered", m.GetCoveredSequence(), "from", from.Sequence, "reason", lost)
	// A crash after this finds outputs of a later epoch than the checkpoint's, and does all of this again.
	if err := l.writer.Settle(ctx, []byte(f.published.String())); err != nil {
		return err
	}
	s := &save{manifest: f.manifest()}
	s.chunks = l.core.Checkpoint(s.manifest)
	// The checkpoints before are of an input that is no more.
	l.state.Forget()
	s.manifest.Output = &eventv1.Mark{Sequence: l.appended}
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

// known is which rows must not be put out any more: those of the checkpoint, those that were put out after it, and those that the next
// stage has. tally is what the last output said, nil if it cannot be found.
func (l *lane) known(ctx context.Context, m *eventv1.Manifest, past fencedlog.Recovered) (*batch.Taken, *batch.Tally, error) {
	known := l.fold.taken.Clone()
	var tally *batch.Tally
	if made, ok := newest(past); ok {
		var v batch.View
		p, err := positionOf(made.Position)
		if err != nil {
			return nil, nil, err
		}
		if p == l.fold.published && v.Parse(made.Data) == nil {
			tally = &v.Tally
		}
	}
	for lane, last := range past.Last {
		if err := l.scan(ctx, lane, m.GetOutput().GetSequence()+1, last.Sequence, known); err != nil {
			return nil, nil, err
		}
	}
	if len(l.Outputs) > 1 {
		return known, tally, nil // each lane of the next stage knows of its own rows only, and leaves out what it has
	}
	next, err := l.reached(ctx, l.Outputs[0])
	if err != nil {
		return nil, nil, err
	}
	theirs, err := batch.TakenOf(next.Taken)
	if err != nil {
		return nil, nil, err
	}
	known.Merge(theirs, func(writer, source string, partition int32) (string, bool) {
		return ingestWriter(source, partition), writer == l.Options.writer()
	})
	return known, tally, nil
}

// scan takes what the lane's messages in an output lane say was taken.
func (l *lane) scan(ctx context.Context, lane int, from, to uint64, known *batch.Taken) error {
	first, _, err := fencedlog.Bounds(ctx, l.JS, l.Output)
	if err != nil {
		return err
	}
	from = max(from, first)
	if from > to {
		return nil
	}
	r, err := fencedlog.OpenReader(ctx, l.JS, l.Output, lane, from)
	if err != nil {
		return err
	}
	defer r.Close()
	var v batch.View
	for {
		m, err := r.Next(ctx)
		if err != nil {
			return err
		}
		if m.Writer == l.Options.writer() {
			if err := v.Parse(m.Data); err != nil {
				return fmt.Errorf("sequence %d of %s: %w", m.Sequence, l.Output.Stream(), err)
			}
			p, err := positionOf(m.Position)
			if err != nil {
				return err
			}
			// Of a step that is not out as a whole the rest is to come: what is out of it is left out by the next stage.
			if l.fold.published.covers(position{p.epoch, p.step, whole}) {
				known.Admit(ingestWriter(string(v.Source), v.Partition), &v)
			}
		}
		if m.Sequence >= to {
			return nil
		}
	}
}

// ingestWriter is the name of the writer of the ingest log for a Kafka partition.
func ingestWriter(source string, partition int32) string {
	name := strconv.FormatInt(int64(partition), 10)
	if source != "" {
		name = source + "-" + name
	}
	return name
}

// remember reads the input from a mark on until all that is known has come by, and takes into the state what it does not have yet.
func (l *lane) remember(ctx context.Context, core Rememberer, from fencedlog.Mark, known *batch.Taken) error {
	seen := l.fold.taken.Clone()
	excused := map[batch.Ahead]bool{} // Kafka no longer has them
	missing := func() (out []batch.Ahead) {
		for _, a := range known.Ahead(seen) {
			if !excused[a] {
				out = append(out, a)
			}
		}
		return out
	}
	if len(missing()) == 0 {
		return nil
	}
	r, err := fencedlog.OpenReader(ctx, l.JS, l.Input, l.Lane, from.Sequence+1)
	if err != nil {
		return err
	}
	defer r.Close()
	var (
		v         batch.View
		selection []byte
		at        = from.Sequence
	)
	for len(missing()) > 0 {
		waitCtx, cancel := context.WithTimeout(ctx, rereadInterval)
		m, err := r.Next(waitCtx)
		idle := waitCtx.Err() != nil && ctx.Err() == nil
		cancel()
		switch {
		case err != nil && idle:
			if err := l.excuse(ctx, missing(), excused, at); err != nil {
				return err
			}
			if rest := missing(); len(rest) > 0 {
				l.waiting(fmt.Errorf("%w: waiting for offset %d of partition %d to be read from Kafka again", fencedlog.ErrTailLost, rest[0].Next-1, rest[0].Partition))
			}
			continue
		case err != nil:
			return err
		}
		at = m.Sequence
		if err := v.Parse(m.Data); err != nil {
			return fmt.Errorf("sequence %d: %w", m.Sequence, err)
		}
		have, upTo := seen.Before(m.Writer, &v), known.Before(m.Writer, &v)
		seen.Admit(m.Writer, &v)
		if have >= upTo {
			continue
		}
		_, selection = v.DropFirst(have, selection)
		_, selection = v.DropFrom(upTo, selection)
		err = core.Remember(Input{Sequence: m.Sequence, Time: m.Time, Writer: m.Writer, View: &v, Published: true, Tally: &l.fold.tally})
		if err != nil {
			return fmt.Errorf("sequence %d: %w", m.Sequence, err)
		}
	}
	l.waiting(nil)
	return nil
}

// rereadInterval is how often a lane looks whether the ingestor has passed what it waits for.
const rereadInterval = time.Second

// excuse finds which of the missing rows do not come any more: the ingestor stands behind them, and all that it has put into the log
// by then has been read.
func (l *lane) excuse(ctx context.Context, missing []batch.Ahead, excused map[batch.Ahead]bool, read uint64) error {
	var passed []batch.Ahead
	for _, a := range missing {
		body, err := fencedlog.Settled(ctx, l.JS, l.Input, a.Writer)
		if err != nil {
			return err
		}
		var p eventv1.IngestPosition
		if err := proto.Unmarshal(body, &p); err != nil {
			return fmt.Errorf("fence of %s in %s: %w", a.Writer, l.Input.Stream(), err)
		}
		if len(p.GetTopicId()) > 0 && (string(p.GetTopicId()) != string(a.TopicID[:]) || p.GetRewinds() > a.Rewinds) || p.GetNextOffset() >= a.Next {
			passed = append(passed, a)
		}
	}
	// The order matters: the fence first, then the log's end.
	last, err := fencedlog.LastOf(ctx, l.JS, l.Input, l.Lane)
	if err != nil {
		return err
	}
	if last > read {
		return nil
	}
	for _, a := range passed {
		excused[a] = true
	}
	return nil
}

// goBack chooses the checkpoint to go on from when the output log has lost its tail, or says why there is none.
func (l *lane) goBack(ctx context.Context, published position, newest *eventv1.Manifest) (*eventv1.Manifest, error) {
	kept := l.state.Earlier()
	lost := fmt.Errorf("%w: %s covers the input of lane %d up to %s, the checkpoint up to %s",
		fencedlog.ErrTailLost, l.Output.Stream(), l.Lane, published, covers(newest))
	at := -1
	for i, m := range kept {
		if published.covers(covers(m)) {
			at = i
		}
	}
	if at < 0 {
		// What is lost before the oldest one need not come again if the next stage has it.
		if len(kept) == 0 {
			return nil, lost
		}
		at = 0
		have, err := l.nextHad(ctx, kept[0])
		if err != nil {
			return nil, err
		}
		if !have {
			return nil, fmt.Errorf("%w; the oldest checkpoint that is kept covers up to %s", lost, covers(kept[0]))
		}
	}
	m := l.state.GoBack(at)
	m.Healed = proto.CloneOf(newest.GetHealed())
	if m.Healed == nil {
		m.Healed = &eventv1.Healing{}
	}
	m.Healed.What = fmt.Sprintf("%v. It goes on from an earlier checkpoint, of sequence %d, and puts out again what was lost", lost, m.GetCoveredSequence())
	m.Healed.Ms = time.Now().UnixMilli()
	l.Log.Warn("log lost its tail: back to an earlier checkpoint", "log", l.Output.Stream(), "published", published.String(), "covered", m.GetCoveredSequence())
	return m, nil
}

func covers(m *eventv1.Manifest) position {
	return position{epoch: m.GetEpoch(), step: m.GetCoveredSequence(), part: whole}
}

// reached is how far the next stage has come in an output lane.
func (l *lane) reached(ctx context.Context, lane int) (checkpoint.Reached, error) {
	return checkpoint.ReachedBy(ctx, l.JS, l.Pipeline, l.Next, lane)
}

// nextReached is the sequence of the output log up to which the next stage has everything, in all output lanes; 0 while it has yet to
// notice that the log has lost its tail.
func (l *lane) nextReached(ctx context.Context) (uint64, error) {
	lowest := uint64(math.MaxUint64)
	var marks []fencedlog.Mark
	for _, lane := range l.Outputs {
		next, err := l.reached(ctx, lane)
		if err != nil {
			return 0, err
		}
		lowest = min(lowest, next.Sequence)
		marks = append(marks, fencedlog.Mark{Sequence: next.Sequence, Time: next.Time})
	}
	if err := fencedlog.VerifyAll(ctx, l.JS, l.Output, marks); err != nil {
		if errors.Is(err, fencedlog.ErrTailLost) {
			return 0, nil
		}
		return 0, err
	}
	return lowest, nil
}

// nextHad tells whether the next stage has everything that was put out before a checkpoint was made of which the output log has lost the
// end: the numbers mean nothing in the log as it is now. Either
// the next stage has not noticed that yet, and its numbers are those of before, too; or it says which rows it has.
func (l *lane) nextHad(ctx context.Context, m *eventv1.Manifest) (bool, error) {
	for _, lane := range l.Outputs {
		next, err := l.reached(ctx, lane)
		if err != nil {
			return false, err
		}
		err = fencedlog.Verify(ctx, l.JS, l.Output, next.Sequence, next.Time)
		if errors.Is(err, fencedlog.ErrTailLost) && next.Sequence >= m.GetOutput().GetSequence() {
			continue
		}
		if err != nil && !errors.Is(err, fencedlog.ErrTailLost) {
			return false, err
		}
		if len(l.Outputs) > 1 {
			return false, nil // which rows are of which lane is not known
		}
		ours, err := batch.TakenOf(m.GetTaken())
		if err != nil {
			return false, err
		}
		theirs, err := batch.TakenOf(next.Taken)
		if err != nil {
			return false, err
		}
		has := batch.NewTaken()
		has.Merge(theirs, func(writer, source string, partition int32) (string, bool) {
			return ingestWriter(source, partition), writer == l.Options.writer()
		})
		if len(ours.Ahead(has)) > 0 {
			return false, nil
		}
	}
	return true, nil
}
