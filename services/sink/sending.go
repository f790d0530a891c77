package sink

import (
	"context"
	"errors"
	"fmt"
	"time"

	"sluice/libs/clickhouse"
	"sluice/services/sink/internal/block"
)

// lettersAtOnce is how many refused rows are held before they are written to the dead-letter log.
const lettersAtOnce = 10000

// sending is one block on its way into the table.
type sending struct {
	lane    *lane
	ctx     context.Context // ends when the lane is to stop: no more attempts
	working context.Context // ends later: an attempt that was begun may be finished
	name    block.Name
	layout  *layout
	order   int // rows of the groups before the present one
	refused []refusal
	written uint64 // refused rows that are in the dead-letter log already
}

// refusal is a row that the table does not take.
type refusal struct {
	group  *group
	row    int // in the group
	order  int // among the rows of the block as they are sent; rises
	reason string
}

func (s *sending) group(g *group) error {
	if len(g.columns) == 0 {
		// Every column has a default and the events have none of them: there is no INSERT without columns.
		for row := range g.Rows {
			if err := s.refuse(g, row, "the event has none of the table's columns"); err != nil {
				return err
			}
		}
	} else if err := s.insert(g, block.Range{From: 0, To: g.Rows}); err != nil {
		return err
	}
	s.order += g.Rows
	return nil
}

// insert brings a range of a group's rows in, under a token of its own. What the server refuses as a whole is taken
// apart, down to the rows at fault; what is in doubt is sent again, the same, for as long as it takes.
func (s *sending) insert(g *group, r block.Range) error {
	columns, err := g.slice(s.layout, r)
	if err != nil {
		return err
	}
	what := clickhouse.Insert{
		Table: s.lane.table, Columns: columns, Token: g.Token(s.name.Token(), r), QueryID: s.name.QueryID(),
		Settings: s.lane.sink().GetSettings(),
	}
	waited := false
	for backoff := firstBackoff; ; backoff = min(2*backoff, lastBackoff) {
		err := s.lane.inserter.Insert(s.working, what)
		if err == nil {
			if waited {
				s.lane.trouble.sending(nil)
			}
			return nil
		}
		class := clickhouse.Classify(err)
		s.lane.metrics.failed(s.ctx, class)
		switch {
		case s.ctx.Err() != nil:
			return context.Cause(s.ctx)
		case class == clickhouse.RejectData && r.Rows() == 1:
			if waited {
				s.lane.trouble.sending(nil)
			}
			return s.refuse(g, r.From, refusalText(err))
		case class == clickhouse.RejectData, class == clickhouse.Split && r.Rows() > 1:
			if waited {
				s.lane.trouble.sending(nil)
			}
			// From here on the range as a whole is never sent again but after a restart, when the
			// server, asked the same, refuses it again.
			low, high := r.Halves()
			if err := s.insert(g, low); err != nil {
				return err
			}
			return s.insert(g, high)
		}
		waited = true
		s.lane.trouble.sending(fmt.Errorf("insert into %s: %w (%s)", s.lane.table, err, clickhouse.Explain(err)))
		if err := s.pause(backoff); err != nil {
			return err
		}
		if class == clickhouse.Ambiguous && !errors.Is(err, clickhouse.ErrNotConnected) || clickhouse.StillRunning(err) {
			// The attempt may still be running, and its query id is taken as long as it is.
			_ = s.endAttempt()
		}
	}
}

// endAttempt ends an attempt of ours that may still be running. If it cannot be ended, the next attempt says why.
func (s *sending) endAttempt() error {
	ctx, cancel := context.WithTimeout(s.working, 10*time.Second)
	defer cancel()
	return clickhouse.KillQuery(ctx, s.lane.sink(), s.name.QueryID())
}

// pause waits before the next attempt. Meanwhile the lane answers: its position is durable already.
func (s *sending) pause(d time.Duration) error {
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

func (s *sending) refuse(g *group, row int, reason string) error {
	s.refused = append(s.refused, refusal{group: g, row: row, order: s.order + row, reason: reason})
	if len(s.refused) < lettersAtOnce {
		return nil
	}
	return s.flush()
}

func (s *sending) flush() error {
	if len(s.refused) == 0 {
		return nil
	}
	if err := s.lane.letters.write(s.working, s.name, s.layout, s.refused); err != nil {
		return fmt.Errorf("write dead letters: %w", err)
	}
	s.written += uint64(len(s.refused))
	s.refused = s.refused[:0]
	return nil
}

// finish returns how many rows were refused; they are all in the dead-letter log.
func (s *sending) finish() (uint64, error) {
	err := s.flush()
	return s.written, err
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
