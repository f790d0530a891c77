package fold

import (
	"context"
	"errors"
	"fmt"
	"time"

	"google.golang.org/protobuf/proto"

	eventv1 "sluice/gen/sluice/event/v1"
	"sluice/libs/batch"
	"sluice/libs/deadletters"
	"sluice/libs/fencedlog"
)

// Replayer is a Core whose outputs name the rows that they were made from, so that it can fold those rows again, in other batches and
// another order, and put out what is not out yet. It is for those to whom what was taken does not tell what was put out.
//
// The calls are, after Restore: Recall and RecallRefused for all that is out, in order, RecallTaken perhaps, then Recalled, then Replay.
type Replayer interface {
	// Recall takes in a message that was put out behind the checkpoint's outputs, RecallRefused the dead letters of that time.
	Recall(*batch.View) error
	RecallRefused([]*eventv1.DeadLetter)
	// RecallTaken says of more that it had been taken by then. What was put out of it is lost, and is to be put out again; what was refused is not.
	RecallTaken(*batch.Taken)
	// Recalled says that this was all: what became of rows in the state is made good there, and counted. It returns what had been taken by
	// the time of the last of it; nothing of that is decided until all of it has come.
	Recalled(*batch.Tally) (*batch.Taken, error)
	// Replay says with which step all of that has come again; Replaying, whether it is to come.
	Replay(until uint64)
	Replaying() bool
}

// relive makes a lane ready whose core is a Replayer, after the input log has lost its tail. It returns what is to be in the checkpoint; nil
// when nothing was put out behind the one before.
//
// If the output log has lost its tail as well, nobody can tell which rows that was made of. They are put out again, once all that the stored checkpoint had has come. If the next stage has what
// was lost, which is made of the rows had, it finds that what comes does not follow what it has had, since each message says which one it follows, and looks which of its rows it has.
func (l *lane) relive(ctx context.Context, core Replayer, m *eventv1.Manifest, from fencedlog.Mark, lost error, had *batch.Taken) (*eventv1.Replay, error) {
	if had == nil && l.stored.GetCoveredSequence() != m.GetCoveredSequence() {
		had = batch.NewTaken() // the next stage has nothing of it; the stage before may believe that we have
	}
	replay := &eventv1.Replay{After: covers(m).String(), FromSequence: m.GetOutput().GetSequence()}
	if before := m.GetReplay(); before != nil { // it happens again: what was put out since then is out as well
		if err := l.replayable(ctx, before); err != nil {
			return nil, err
		}
		replay = proto.CloneOf(before)
	}
	if had != nil {
		for _, taken := range []map[string]*eventv1.Taken{replay.GetTaken(), l.stored.GetTaken()} {
			more, err := batch.TakenOf(taken)
			if err != nil {
				return nil, fmt.Errorf("checkpoint of lane %d: %w", l.Lane, err)
			}
			had.Add(more)
		}
		replay.Taken = had.Proto()
	}
	last, err := fencedlog.LastOf(ctx, l.JS, l.Output, l.Lane)
	if err != nil {
		return nil, err
	}
	replay.To = &eventv1.Mark{Sequence: last}
	if last > 0 {
		made, ok, err := fencedlog.At(ctx, l.JS, l.Output, last)
		if err != nil {
			return nil, err
		}
		if ok {
			replay.To.TimeNs = made.Time.UnixNano()
		}
	}
	epoch := max(m.GetEpoch(), l.fold.published.epoch) + 1
	known, err := l.recall(ctx, core, replay, epoch, m.GetReplay() == nil)
	if err != nil || known == nil {
		return nil, err
	}
	until, excused, err := l.await(ctx, known, from)
	if err != nil {
		return nil, err
	}
	if had != nil && excused > 0 && l.Input.Stage != fencedlog.Ingest && l.stored.GetCoveredSequence() != m.GetCoveredSequence() {
		// Stage dedup goes by the stored one, and does not put out again what that had.
		return nil, fmt.Errorf("%w; lane %d has gone back to an earlier checkpoint, and what it had taken since then does not come again", lost, l.Lane)
	}
	replay.UntilSequence = until
	core.Replay(replay.GetUntilSequence())
	return replay, nil
}

// resume makes a lane ready that was stopped in the middle of a replay.
func (l *lane) resume(ctx context.Context, m *eventv1.Manifest) error {
	core, ok := l.core.(Replayer)
	if !ok {
		return fmt.Errorf("stage %s has a checkpoint of a replay, which it cannot go on with", l.Stage)
	}
	if err := l.replayable(ctx, m.GetReplay()); err != nil {
		return err
	}
	if _, err := l.recall(ctx, core, m.GetReplay(), m.GetEpoch(), false); err != nil {
		return err
	}
	core.Replay(m.GetReplay().GetUntilSequence())
	return nil
}

// bothLost tells, of a lane that goes back to an earlier checkpoint, why what it puts out from there is not what the output log has lost: the input log
// has lost its tail, too. The stage behind a Rememberer tells rows by where they are in Kafka, so that it need not know.
func (l *lane) bothLost(ctx context.Context, newest *eventv1.Manifest) (lost, err error) {
	if _, ok := l.core.(Replayer); !ok {
		return nil, nil
	}
	lost = fencedlog.Verify(ctx, l.JS, l.Input, newest.GetCoveredSequence(), time.Unix(0, newest.GetCoveredTimeNs()))
	if errors.Is(lost, fencedlog.ErrTailLost) {
		return lost, nil
	}
	return nil, lost
}

// nextBeyond tells whether the next stage has outputs, or may have, that neither the log holds any more nor the checkpoint covers: then it returns what was taken by
// the last of them, as far as that is known; else nil.
func (l *lane) nextBeyond(ctx context.Context, lost error) (_ *batch.Taken, err error) {
	var had *batch.Taken
	known := l.fold.published
	if l.after != "" { // a fence may be of a healing that was cut off
		known, err = positionOf(l.after)
		if err != nil {
			return nil, err
		}
	}
	for _, lane := range l.Outputs {
		next, err := l.reached(ctx, lane)
		if err != nil {
			return nil, err
		}
		at, err := positionOf(next.Positions[l.Options.writer()])
		if err != nil {
			return nil, err
		}
		doubt, err := positionOf(next.Pending.GetPositions()[l.Options.writer()])
		if err != nil {
			return nil, err
		}
		if !known.covers(at) && next.Made[l.Options.writer()] == 0 {
			// A stage of an earlier version would take what comes for what it has, or for what it has not.
			return nil, fmt.Errorf("%w; %s has lost its tail, too: it ends at %s, and stage %s, which an earlier version has brought there, has had it up to %s. "+
				"Which rows those were made from cannot be told", lost, l.Output.Stream(), known, l.Next, at)
		}
		if known.covers(at) && known.covers(doubt) {
			continue
		}
		if had == nil {
			had = batch.NewTaken()
		}
		for _, taken := range []map[string]*eventv1.Taken{next.Joined, next.Pending.GetJoined()} {
			more, err := batch.TakenOf(taken)
			if err != nil {
				return nil, fmt.Errorf("position of lane %d of stage %s: %w", lane, l.Next, err)
			}
			had.Add(more)
		}
	}
	return had, nil
}

// nextLost tells, of a Replayer whose output log does not hold what the next stage has, why the input log is not the one that it was made from; nil if it is, and the
// same comes again. What was put out is all there is to tell where the checkpoint does not reach that far.
func (l *lane) nextLost(ctx context.Context, published position) error {
	if _, ok := l.core.(Replayer); !ok {
		return nil
	}
	writer := l.Options.writer()
	for _, lane := range l.Outputs {
		next, err := l.reached(ctx, lane)
		if err != nil {
			return err
		}
		for position, made := range map[string]int64{
			next.Positions[writer]: next.Made[writer], next.Pending.GetPositions()[writer]: next.Pending.GetMadeNs()[writer],
		} {
			at, err := positionOf(position)
			if err != nil {
				return err
			}
			if made == 0 || published.covers(at) || at.epoch != published.epoch {
				continue
			}
			if err := fencedlog.Verify(ctx, l.JS, l.Input, at.step, time.Unix(0, made)); err != nil {
				return err
			}
		}
	}
	return nil
}

// outputsLost tells, of a lane whose healing was cut off, that the output log lacks what had been put out before its checkpoint. The fence does not tell that any more,
// since it is of the healing; logged becomes what the messages tell.
func (l *lane) outputsLost(ctx context.Context, m *eventv1.Manifest, published position, past fencedlog.Recovered, logged *position) (bool, error) {
	if published.epoch <= m.GetEpoch() || m.GetPutOut() == "" || m.GetPutOut() == nothing {
		return false, nil
	}
	out, err := positionOf(m.GetPutOut())
	if err != nil {
		return false, err
	}
	if made, ok := newest(past); ok {
		at, err := positionOf(made.Position)
		if err != nil || at.covers(out) {
			return false, err
		}
		*logged = at
		return true, nil
	}
	_, last, err := fencedlog.Bounds(ctx, l.JS, l.Output)
	if err != nil {
		return false, err
	}
	there, _, err := fencedlog.At(ctx, l.JS, l.Output, m.GetOutput().GetSequence())
	if err != nil || last >= m.GetOutput().GetSequence() && (there.Sequence == 0 || there.Position == m.GetPutOut()) {
		return false, err
	}
	*logged = position{part: whole}
	return true, nil
}

// follows is the position of the lane's last message in the output log, as that knows it, and the checkpoint that the lane goes on from: what was put out before that one
// is not put out again. It is "" when neither tells.
func (l *lane) follows(m *eventv1.Manifest, past fencedlog.Recovered, wentBack bool) (string, error) {
	if _, ok := l.core.(Replayer); !ok {
		return "", nil
	}
	made, ok := newest(past)
	switch {
	case m.GetPutOut() == "" && !ok && len(past.Body) == 0 && m.GetCoveredSequence() == 0 && !wentBack:
		return nothing, nil
	case m.GetPutOut() == "" && (wentBack || !ok): // of an earlier version
		return "", nil
	case !ok:
		return m.GetPutOut(), nil
	}
	before, err := positionOf(m.GetPutOut())
	if err != nil {
		return "", err
	}
	last, err := positionOf(made.Position)
	if err != nil {
		return "", err
	}
	return later(last, before).String(), nil
}

// replayable makes sure that the messages that a replay needs are there.
func (l *lane) replayable(ctx context.Context, r *eventv1.Replay) error {
	err := fencedlog.Verify(ctx, l.JS, l.Output, r.GetTo().GetSequence(), time.Unix(0, r.GetTo().GetTimeNs()))
	if errors.Is(err, fencedlog.ErrTailLost) {
		return fmt.Errorf("%w, while lane %d was folding again what %s had lost: which rows are out cannot be told", err, l.Lane, l.Input.Stream())
	}
	return err
}

// recall tells the core what is out. It returns what was taken by then, nil when nothing is. fresh: nothing of it was folded again yet.
func (l *lane) recall(ctx context.Context, core Replayer, r *eventv1.Replay, epoch uint32, fresh bool) (*batch.Taken, error) {
	any := false
	after, err := positionOf(r.GetAfter())
	if err != nil {
		return nil, err
	}
	out := func(text string) (bool, error) {
		p, err := positionOf(text)
		return err == nil && p.epoch < epoch && !after.covers(p), err
	}
	var v batch.View
	first, _, err := fencedlog.Bounds(ctx, l.JS, l.Output)
	if err != nil {
		return nil, err
	}
	if to := r.GetTo().GetSequence(); to > r.GetFromSequence() {
		err = l.each(ctx, l.Output, l.Lane, max(first, r.GetFromSequence()+1), to, func(m fencedlog.Message) error {
			if m.Writer != l.Options.writer() {
				return nil
			}
			is, err := out(m.Position)
			if err != nil || !is {
				return err
			}
			if err := v.Parse(m.Data); err != nil {
				return err
			}
			// The stage behind does not purge these; one of an earlier version may have.
			if before := v.Tally.Rows - uint64(v.Rows); !any && fresh && before != l.fold.tally.Rows {
				return fmt.Errorf("%w; the first message of lane %d behind its checkpoint follows %d rows, and that has put out %d: what is between was purged",
					fencedlog.ErrTailLost, l.Lane, before, l.fold.tally.Rows)
			}
			any = true
			return core.Recall(&v)
		})
		if err != nil {
			return nil, err
		}
	}
	if l.letters != nil {
		log := fencedlog.Log{Pipeline: l.Pipeline, Stage: fencedlog.DeadLetters}
		first, _, err := fencedlog.Bounds(ctx, l.JS, log)
		if err != nil {
			return nil, err
		}
		last, err := fencedlog.LastOf(ctx, l.JS, log, l.Lane)
		if err != nil {
			return nil, err
		}
		err = l.each(ctx, log, l.Lane, first, last, func(m fencedlog.Message) error {
			if m.Writer != l.lettersWriter() {
				return nil
			}
			at, err := deadletters.PositionOf(m.Position)
			if err != nil {
				return err
			}
			is, err := out(at)
			if err != nil || !is {
				return err
			}
			any = true
			var letters eventv1.DeadLetterBatch
			if err := proto.Unmarshal(m.Data, &letters); err != nil {
				return err
			}
			core.RecallRefused(letters.GetLetters())
			return nil
		})
		if err != nil {
			return nil, err
		}
	}
	if len(r.GetTaken()) > 0 {
		taken, err := batch.TakenOf(r.GetTaken())
		if err != nil {
			return nil, err
		}
		any = true
		core.RecallTaken(taken)
	}
	if !any {
		return nil, nil
	}
	return core.Recalled(&l.fold.tally)
}

// each hands over the messages of a lane from one sequence to another; the second is of the lane.
func (l *lane) each(ctx context.Context, log fencedlog.Log, lane int, from, to uint64, f func(fencedlog.Message) error) error {
	if from > to {
		return nil
	}
	r, err := fencedlog.OpenReader(ctx, l.JS, log, lane, from)
	if err != nil {
		return err
	}
	defer r.Close()
	for {
		m, err := r.Next(ctx)
		if err != nil {
			return err
		}
		if err := f(m); err != nil {
			return fmt.Errorf("sequence %d of %s: %w", m.Sequence, log.Stream(), err)
		}
		if m.Sequence >= to {
			return nil
		}
	}
}
