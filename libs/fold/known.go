package fold

import (
	"context"
	"fmt"
	"time"

	"google.golang.org/protobuf/proto"

	eventv1 "sluice/gen/sluice/event/v1"
	"sluice/libs/batch"
	"sluice/libs/fencedlog"
)

// known is which rows must not be put out any more: those of the checkpoint, those that were put out after it, and those that the next
// stage has. tally is what the last output said, nil if it cannot be found or does not say all.
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
	has, err := l.keeps(ctx, l.Outputs[0], next)
	if err != nil {
		return nil, nil, err
	}
	theirs, err := l.ofOurs(has)
	if err != nil {
		return nil, nil, err
	}
	out := known.Clone()
	known.Add(theirs)
	if len(known.Ahead(out)) > 0 {
		tally = nil // the outputs that said more are gone
	}
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
				known.Admit(fencedlog.IngestWriter(string(v.Source), v.Partition), &v)
			}
		}
		if m.Sequence >= to {
			return nil
		}
	}
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
