package fold

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"google.golang.org/protobuf/proto"

	eventv1 "sluice/gen/sluice/event/v1"
	"sluice/libs/batch"
	"sluice/libs/checkpoint"
	"sluice/libs/fencedlog"
)

// await reads the input from a mark on until all that was taken has come again or does not come any more. It returns the
// sequence up to which that is so, and of how many parts of it does not come any more.
func (l *lane) await(ctx context.Context, known *batch.Taken, from fencedlog.Mark) (until uint64, gone int, err error) {
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
	until = from.Sequence
	if len(missing()) == 0 {
		return until, 0, nil
	}
	r, err := fencedlog.OpenReader(ctx, l.JS, l.Input, l.Lane, from.Sequence+1)
	if err != nil {
		return 0, 0, err
	}
	defer r.Close()
	var (
		v      batch.View
		behind barrier
		looked = time.Now()
	)
	for rest := missing(); len(rest) > 0; rest = missing() {
		if time.Since(looked) >= rereadInterval {
			looked = time.Now()
			passed, err := l.passed(ctx, &behind, rest, until)
			if err != nil {
				return 0, 0, err
			}
			for _, a := range passed {
				excused[a] = true
				l.Log.Warn("rows that were taken do not come from Kafka again", "source", a.Source, "partition", a.Partition, "before", a.Next)
			}
			if len(passed) > 0 {
				continue
			}
			l.waiting(fmt.Errorf("%w: waiting for offset %d of partition %d to be read from Kafka again", fencedlog.ErrTailLost, rest[0].Next-1, rest[0].Partition))
		}
		waitCtx, cancel := context.WithTimeout(ctx, rereadInterval)
		m, err := r.Next(waitCtx)
		idle := waitCtx.Err() != nil && ctx.Err() == nil
		cancel()
		if err != nil && idle {
			continue
		}
		if err != nil {
			return 0, 0, err
		}
		until = m.Sequence
		if err := v.Parse(m.Data); err != nil {
			return 0, 0, fmt.Errorf("sequence %d: %w", m.Sequence, err)
		}
		seen.Admit(m.Writer, &v)
	}
	l.waiting(nil)
	return until, len(excused), nil
}

// noticed waits until the stage before has noticed what its log has lost, and has settled what comes again of it: until then what this lane's checkpoint says, of before the loss,
// may be what tells that stage what need not come.
func (l *lane) noticed(ctx context.Context) error {
	if l.Input.Stage == fencedlog.Ingest { // Kafka tells that
		return nil
	}
	for waited := false; ; waited = true {
		behind, err := l.behind(ctx)
		if err != nil {
			return err
		}
		if behind < 0 {
			if waited {
				l.waiting(nil)
			}
			return nil
		}
		l.waiting(fmt.Errorf("%w: waiting for lane %d of stage %s to notice what %s has lost", fencedlog.ErrTailLost, behind, l.Input.Stage, l.Input.Stream()))
		select {
		case <-time.After(noticePoll):
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// noticePoll is how often it is looked whether the stage before has noticed a loss.
const noticePoll = 200 * time.Millisecond

// behind returns a lane of the stage before whose fence is behind its checkpoint, which is how that tells a loss of its log; -1: there is none.
func (l *lane) behind(ctx context.Context) (int, error) {
	fences, err := fencedlog.Fences(ctx, l.JS, l.Input)
	if err != nil {
		return 0, err
	}
	for _, lane := range l.Live {
		has, err := checkpoint.ReachedBy(ctx, l.JS, l.Pipeline, l.Input.Stage, lane)
		if err != nil {
			return 0, err
		}
		published, err := positionOf(string(fences[strconv.Itoa(lane)]))
		if err != nil {
			return 0, fmt.Errorf("fence of lane %d in %s: %w", lane, l.Input.Stream(), err)
		}
		if !has.Closed && !published.covers(position{epoch: has.Epoch, step: has.Sequence, part: whole}) {
			return lane, nil
		}
	}
	return -1, nil
}

// barrier is how far it is known that rows do not come any more: the ingestor stands behind them; then all that its log had by that time is to go
// through the stages before this one; then all that their log had by that time is to be read.
type barrier struct {
	of      []batch.Ahead
	ingest  uint64 // end of the ingest log once the ingestor was behind them
	through bool
	input   uint64 // end of the lane's input once that had come through
}

// passed is which of the missing rows do not come any more.
func (l *lane) passed(ctx context.Context, b *barrier, missing []batch.Ahead, read uint64) ([]batch.Ahead, error) {
	ingest := fencedlog.Log{Pipeline: l.Pipeline, Stage: fencedlog.Ingest}
	if len(b.of) == 0 {
		for _, a := range missing {
			body, err := fencedlog.Settled(ctx, l.JS, ingest, fencedlog.IngestWriter(a.Source, a.Partition))
			if err != nil {
				return nil, err
			}
			var p eventv1.IngestPosition
			if err := proto.Unmarshal(body, &p); err != nil {
				return nil, fmt.Errorf("fence of partition %d of %s: %w", a.Partition, a.Source, err)
			}
			if len(p.GetTopicId()) > 0 && (string(p.GetTopicId()) != string(a.TopicID[:]) || p.GetRewinds() > a.Rewinds) || p.GetNextOffset() >= a.Next {
				b.of = append(b.of, a)
			}
		}
		if len(b.of) == 0 {
			return nil, nil
		}
		_, end, err := fencedlog.Bounds(ctx, l.JS, ingest)
		if err != nil {
			return nil, err
		}
		b.ingest = end
	}
	if !b.through {
		through, err := l.cameThrough(ctx, ingest, b.ingest)
		if err != nil || !through {
			return nil, err
		}
		last, err := fencedlog.LastOf(ctx, l.JS, l.Input, l.Lane)
		if err != nil {
			return nil, err
		}
		b.through, b.input = true, last
	}
	if read < b.input {
		return nil, nil
	}
	out := b.of
	*b = barrier{}
	return out, nil
}

// cameThrough tells whether the stage before this one has all of the ingest log up to a sequence.
func (l *lane) cameThrough(ctx context.Context, ingest fencedlog.Log, sequence uint64) (bool, error) {
	if l.Input == ingest {
		return true, nil
	}
	covered, err := checkpoint.AllCovered(ctx, l.JS, l.Pipeline, l.Input.Stage, l.Live)
	if err != nil {
		return false, err
	}
	var marks []fencedlog.Mark
	for _, c := range covered {
		if c.Sequence < sequence {
			return false, nil
		}
		marks = append(marks, fencedlog.Mark{Sequence: c.Sequence, Time: c.Time})
	}
	// A lane that has yet to notice that the log has lost its tail has numbers of before.
	err = fencedlog.VerifyAll(ctx, l.JS, ingest, marks)
	if errors.Is(err, fencedlog.ErrTailLost) {
		return false, nil
	}
	return err == nil, err
}
