package fold

import (
	"context"
	"errors"
	"fmt"
	"math"
	"strconv"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"google.golang.org/protobuf/proto"

	eventv1 "sluice/gen/sluice/event/v1"
	"sluice/libs/batch"
	"sluice/libs/checkpoint"
	"sluice/libs/fencedlog"
)

// goBack chooses the checkpoint to go on from when the output log has lost its tail, or says why there is none. It has no output if it is the newest: what
// was lost is not needed. both: the input log has lost its tail, too, so that the less has to be put out again, the better.
func (l *lane) goBack(ctx context.Context, published position, newest *eventv1.Manifest, both bool) (*eventv1.Manifest, error) {
	kept := l.state.Earlier()
	lost := fmt.Errorf("%w: %s covers the input of lane %d up to %s, the checkpoint up to %s",
		fencedlog.ErrTailLost, l.Output.Stream(), l.Lane, published, covers(newest))
	at := -1
	for i, m := range kept {
		if published.covers(covers(m)) {
			at = i
		}
	}
	enough := false
	if both {
		var err error
		if enough, err = l.nextHad(ctx, newest); err != nil {
			return nil, err
		}
	}
	if enough {
		at = -1
	} else if at < 0 {
		// What is lost before the oldest one need not come again if the next stage has it.
		oldest := newest
		if len(kept) > 0 {
			oldest, at = kept[0], 0
		}
		have, err := l.nextHad(ctx, oldest)
		if err != nil {
			return nil, err
		}
		if !have {
			return nil, fmt.Errorf("%w; the oldest checkpoint that is kept covers up to %s", lost, covers(oldest))
		}
	}
	var m *eventv1.Manifest
	how := "stage " + l.Next + " has all of that"
	if at < 0 {
		m = proto.CloneOf(newest)
		m.Output = nil // of the log as it was
	} else {
		m = l.state.GoBack(at)
		how = fmt.Sprintf("it goes on from an earlier checkpoint, of sequence %d, and puts out again what was lost", m.GetCoveredSequence())
	}
	m.Healed = proto.CloneOf(newest.GetHealed())
	if m.Healed == nil {
		m.Healed = &eventv1.Healing{}
	}
	m.Healed.What = fmt.Sprintf("%v; %s", lost, how)
	m.Healed.Ms = time.Now().UnixMilli()
	l.Log.Warn("log lost its tail", "then", how, "log", l.Output.Stream(), "published", published.String(), "covered", m.GetCoveredSequence())
	return m, nil
}

func covers(m *eventv1.Manifest) position {
	return position{epoch: m.GetEpoch(), step: m.GetCoveredSequence(), part: whole}
}

// reached is how far the next stage has come in an output lane.
func (l *lane) reached(ctx context.Context, lane int) (checkpoint.Reached, error) {
	return checkpoint.ReachedBy(ctx, l.JS, l.Pipeline, l.Next, lane)
}

// keeps is what the next stage has in an output lane, but for what it goes back behind, which it does when it has lost its own output.
func (l *lane) keeps(ctx context.Context, lane int, next checkpoint.Reached) (checkpoint.Had, error) {
	if l.Next == checkpoint.Sink {
		return next.Had, nil
	}
	log := fencedlog.Log{Pipeline: l.Pipeline, Stage: l.Next}
	fences, err := fencedlog.Fences(ctx, l.JS, log)
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		return checkpoint.Least(ctx, l.JS, l.Pipeline, l.Next, lane)
	}
	if err != nil {
		return checkpoint.Had{}, err
	}
	published, err := positionOf(string(fences[strconv.Itoa(lane)]))
	if err != nil {
		return checkpoint.Had{}, fmt.Errorf("fence of lane %d in %s: %w", lane, log.Stream(), err)
	}
	if published.epoch != next.Epoch || published.step < next.Sequence { // it goes back, or is about to say that it has
		return checkpoint.Least(ctx, l.JS, l.Pipeline, l.Next, lane)
	}
	return next.Had, nil
}

// ofOurs is which of the lane's rows are among those that the next stage has, by the writers that the lane knows them by.
func (l *lane) ofOurs(has checkpoint.Had) (*batch.Taken, error) {
	theirs, err := batch.TakenOf(has.Taken)
	if err != nil {
		return nil, err
	}
	ours := batch.NewTaken()
	ours.Merge(theirs, func(writer, source string, partition int32) (string, bool) {
		return fencedlog.IngestWriter(source, partition), writer == l.Options.writer()
	})
	return ours, nil
}

// nextReached is the sequence of the output log up to which the next stage has everything, even if it were to go back, in all output lanes; 0 while it has yet to
// notice that the log has lost its tail.
func (l *lane) nextReached(ctx context.Context) (uint64, error) {
	lowest := uint64(math.MaxUint64)
	var marks []fencedlog.Mark
	for _, lane := range l.Outputs {
		next, err := l.reached(ctx, lane)
		if err != nil {
			return 0, err
		}
		lowest = min(lowest, next.Least)
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
// end: the numbers mean nothing in the log as it is now. The next stage says which rows it has. Where that does not tell (rows that go to several lanes, or were taken over from other lanes,
// or are made of others), its numbers do as long as it has not noticed the loss: then they are those of before, too.
func (l *lane) nextHad(ctx context.Context, m *eventv1.Manifest) (bool, error) {
	ours, err := batch.TakenOf(m.GetTaken())
	if err != nil {
		return false, err
	}
	for _, lane := range l.Outputs {
		next, err := l.reached(ctx, lane)
		if err != nil {
			return false, err
		}
		has, err := l.keeps(ctx, lane, next)
		if err != nil {
			return false, err
		}
		if len(l.Outputs) == 1 && len(has.Taken) > 0 {
			theirs, err := l.ofOurs(has)
			if err != nil {
				return false, err
			}
			if len(ours.Ahead(theirs)) == 0 {
				continue
			}
			if l.Next == checkpoint.Sink && !m.GetInherited() {
				return false, nil // all that was taken was put out, if only to say so
			}
		}
		if at := m.GetPutOut(); at != "" { // of a Replayer: the next stage tells its outputs by their positions
			has, err := Reaches(next.Positions[l.Options.writer()], at)
			if err != nil {
				return false, err
			}
			if has || at == nothing {
				continue
			}
			return false, nil
		}
		err = fencedlog.Verify(ctx, l.JS, l.Output, next.Sequence, next.Time)
		if err != nil && !errors.Is(err, fencedlog.ErrTailLost) {
			return false, err
		}
		if err == nil || has.Sequence < m.GetOutput().GetSequence() {
			return false, nil
		}
	}
	return true, nil
}
