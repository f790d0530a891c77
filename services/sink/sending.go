package sink

import (
	"context"
	"errors"
	"fmt"
	"time"

	eventv1 "sluice/gen/sluice/event/v1"
	"sluice/libs/clickhouse"
	"sluice/libs/ledger"
	"sluice/services/sink/internal/block"
)

const (
	// lettersAtOnce bounds the refused rows that are written to the dead-letter log at once.
	lettersAtOnce = 10000
	// guardTimeout bounds the write of the position while an INSERT is open on the server, which waits for
	// data for clickhouse.ReceiveTimeout.
	guardTimeout = 10 * time.Second
)

// sending is one block on its way into the table.
//
// The table may refuse the block, which is then taken apart, into halves and halves of halves, in order. Every decision to
// send a part by its halves, or to give a row up, is durable before anything is done by it. So whatever the
// table is like after a restart, what is in is never sent again in another shape.
type sending struct {
	lane    *lane
	ctx     context.Context // ends when the lane is to stop: no more attempts
	working context.Context // ends later: an attempt that was begun may be finished
	name    block.Name
	layout  *layout
	pending *eventv1.PendingBlock
	spans   *blockSpans
	groups  []*group
	order   int // rows of the groups before the present one
	// repeated: an owner of the lane before us, or we before a restart, may have sent the block.
	repeated bool

	// Rows are counted as they are sent, over all groups.
	// Invariant: all rows before done are in the table or the dead-letter log; no part of more rows that contains
	// decided is ever sent; decided is what is stored, or empty as long as the block is whole.
	done    int
	decided block.Range
	refused uint64 // rows that are in the dead-letter log
	// settled are the rows that are in the table or the dead-letter log, but not yet in the lane's ledger. Nil as that one is.
	settled *ledger.Ledger
}

// refusal is a row that the table does not take.
type refusal struct {
	group  *group
	row    int // in the group
	order  int // among the rows of the block as they are sent; rises
	reason string
}

// resume goes on where a block that was being taken apart stood when its sender died.
func (s *sending) resume() error {
	from, to := int(s.pending.GetPartFrom()), int(s.pending.GetPartTo())
	if to == 0 {
		return nil
	}
	if from >= to || to > int(s.pending.GetRows()) {
		return fmt.Errorf("the position's part %d to %d is none of a block of %d rows", from, to, s.pending.GetRows())
	}
	s.decided, s.done, s.refused = block.Range{From: from, To: to}, from, s.pending.GetPartRefused()
	// The first dead letter of a part is written when all of its rows are refused, so the log knows better.
	last, err := s.lane.letters.lastOf(s.working, s.name)
	if err != nil {
		return fmt.Errorf("read dead letters: %w", err)
	}
	if last >= from {
		s.done = last + 1
		s.refused += uint64(s.done - from)
		s.settle(block.Range{From: from, To: s.done}, true)
	}
	return nil
}

// skip leaves out all rows before to, which are known to be in the table.
func (s *sending) skip(to int) {
	s.settle(block.Range{From: s.done, To: to}, false)
	s.done = to
}

func (s *sending) group(g *group) error {
	var err error
	if len(g.columns) == 0 {
		err = s.refuseGroup(g)
	} else {
		err = s.part(g, block.Range{From: 0, To: g.Rows})
	}
	s.order += g.Rows
	return err
}

// refuseGroup refuses rows for which there is no INSERT: the columns all have defaults, and the events have none of them.
func (s *sending) refuseGroup(g *group) error {
	for from := max(0, s.done-s.order); from < g.Rows; from += lettersAtOnce {
		if err := s.refuse(g, block.Range{From: from, To: min(from+lettersAtOnce, g.Rows)}, "the event has none of the table's columns"); err != nil {
			return err
		}
	}
	return nil
}

// part brings a range of a group's rows in: as a whole if that may be, else by halves.
func (s *sending) part(g *group, r block.Range) error {
	at := r.Shift(s.order)
	if at.To <= s.done {
		return nil
	}
	if !at.Holds(s.decided) {
		verdict, err := s.insert(g, r)
		switch {
		case err != nil:
			return err
		case verdict == nil:
			s.settle(at, false)
			return nil
		case r.Rows() == 1:
			return s.refuse(g, r, refusalText(verdict))
		}
		low, _ := r.Halves()
		if err := s.decide(low.Shift(s.order)); err != nil {
			return err
		}
	}
	low, high := r.Halves()
	if err := s.part(g, low); err != nil {
		return err
	}
	return s.part(g, high)
}

// decide makes durable that nothing larger than the part is sent of its rows from now on, and that all before it
// is settled.
func (s *sending) decide(part block.Range) error {
	s.decided, s.done = part, part.From
	if err := s.enter(); err != nil {
		return err
	}
	s.pending.PartFrom, s.pending.PartTo, s.pending.PartRefused = uint64(part.From), uint64(part.To), s.refused
	return s.lane.write(s.working, s.pending)
}

// insert sends a range of a group's rows under a token of its own. What is in doubt is sent again, the same, for as long
// as it takes. It returns why the server refuses the range, nil if it does not.
func (s *sending) insert(g *group, r block.Range) (verdict, err error) {
	columns, err := g.slice(s.layout, r)
	if err != nil {
		return nil, err
	}
	what := clickhouse.Insert{
		Table: s.lane.table, Columns: s.layout.present(columns), Token: g.Token(s.name.Token(), r), QueryID: s.name.QueryID(),
		Settings: s.lane.sink().GetSettings(), Guard: s.guard,
	}
	doubt := doubt{sending: s, group: g, from: r.From, token: what.Token, open: s.repeated}
	unsifted := what
	if s.lane.suspicion != nil {
		done, err := s.sift(g, r, &what, &doubt)
		if errors.Is(err, errGone) {
			return s.insert(g, r)
		}
		if done || err != nil {
			return nil, err
		}
	}
	waited := false
	defer func() {
		if waited && err == nil {
			s.lane.trouble.sending(nil)
		}
	}()
	for backoff := s.lane.pace.first; ; backoff = min(2*backoff, s.lane.pace.last) {
		attempt, ended := s.spans.attempt(s.working, &what)
		err := s.lane.inserter.Insert(attempt, what)
		ended(err)
		if err == nil {
			whole, err := doubt.resolve(&what)
			if whole || err != nil {
				return nil, err
			}
			continue
		}
		doubt.failed(err)
		class := clickhouse.Classify(err)
		s.lane.metrics.failed(s.ctx, s.name.Pipeline, class)
		switch {
		case errors.Is(err, errTaken):
			return nil, err
		case s.ctx.Err() != nil:
			return nil, context.Cause(s.ctx)
		case class == clickhouse.RejectData, class == clickhouse.Split && r.Rows() > 1:
			return err, nil
		case s.missing(err):
			s.repeated = s.repeated || doubt.open
			return s.insert(g, r)
		}
		waited = true
		s.lane.trouble.sending(fmt.Errorf("insert into %s: %w (%s)", s.lane.table, err, clickhouse.Explain(err)))
		if err := s.pause(backoff); err != nil {
			return nil, err
		}
		if class == clickhouse.Ambiguous && !errors.Is(err, clickhouse.ErrNotConnected) || clickhouse.StillRunning(err) {
			// The attempt may still be running, and its query id is taken as long as it is.
			if s.lane.suspicion == nil {
				_ = s.endAttempt()
				continue
			}
			what = unsifted
			done, err := s.siftAgain(g, r, &what, &doubt)
			if errors.Is(err, errGone) {
				s.repeated = s.repeated || doubt.open
				return s.insert(g, r)
			}
			if done || err != nil {
				return nil, err
			}
		}
	}
}

// guard runs when the server has the query and nothing of the block was sent. It makes the range durable, with it the
// advance over the block before, and with it that the lane is still ours: whoever takes it after this finds the
// range, and ends the query. Whoever took it before has made this fail.
func (s *sending) guard(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, guardTimeout)
	defer cancel()
	return s.lane.write(ctx, s.pending)
}

// endAttempt ends an attempt of ours that may still be running. If it cannot be ended, the next attempt says why.
func (s *sending) endAttempt() error {
	ctx, cancel := context.WithTimeout(s.working, killTimeout)
	defer cancel()
	return clickhouse.KillQuery(ctx, s.lane.sink(), s.name.QueryID())
}

// pause waits before the next attempt. Meanwhile the lane answers, and the advance over the block before is not kept
// waiting with this one.
func (s *sending) pause(d time.Duration) error {
	if s.lane.moved {
		if err := s.lane.write(s.working, s.pending); err != nil {
			return err
		}
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	for {
		select {
		case <-s.ctx.Done():
			return context.Cause(s.ctx)
		case reply := <-s.lane.unit.Checkpoints():
			reply <- nil
		case <-timer.C:
			return nil
		}
	}
}

// refuse writes a range of a group's rows to the dead-letter log.
func (s *sending) refuse(g *group, r block.Range, reason string) error {
	at := r.Shift(s.order)
	if s.decided != at {
		// From here on nothing but these rows is in doubt, however long Kafka takes to give the originals.
		if err := s.decide(at); err != nil {
			return err
		}
	}
	refused := make([]refusal, r.Rows())
	for i := range refused {
		refused[i] = refusal{group: g, row: r.From + i, order: at.From + i, reason: reason}
	}
	if err := s.lane.letters.write(s.working, s.name, s.layout, refused); err != nil {
		return fmt.Errorf("write dead letters: %w", err)
	}
	s.done = at.To
	s.refused += uint64(r.Rows())
	s.settle(at, true)
	return nil
}

// maxReason bounds the server's words in a dead letter: it may quote a whole row of megabytes.
const maxReason = 2000

func refusalText(err error) string {
	text := err.Error()
	var server *clickhouse.ServerError
	if errors.As(err, &server) {
		text = fmt.Sprintf("ClickHouse refuses the row: %s (code %d)", server.Message, server.Code)
	}
	if len(text) > maxReason {
		text = text[:maxReason] + "…"
	}
	return text
}
