package control

import (
	"context"
	"time"

	controlv1 "sluice/gen/sluice/control/v1"
	eventv1 "sluice/gen/sluice/event/v1"
	"sluice/libs/ledger"
	"sluice/libs/native"
)

const (
	// followFor is how long the blocks that were being inserted may take to settle.
	followFor = 10 * time.Second
	// maxMoments bounds the combinations of the lanes' states that are tried.
	maxMoments = 4096
)

// moments is what may have been written when the table was opened: for each lane the states that it had around that time. A lane that
// stood still has one. One that was inserting has two, without the block and with it; which of them was in the table, the
// table itself tells: only one combination of all lanes adds up to it.
type moments [][]laneState

// laneState is what a lane had written at some time.
type laneState struct {
	ledger *ledger.Ledger // nil: cannot be used
	gap    string
	rows   uint64 // by the lane's own count
	total  ledger.Partition
	loose  bool // rows is not exact
}

func stateOfLane(lane int, p *eventv1.SinkPosition) (s laneState, err error) {
	s.rows, s.loose = p.GetTally().GetRows(), loose(p)
	if s.ledger, s.gap, err = ledgerOf(lane, p); s.ledger != nil {
		s.total = s.ledger.Total()
	}
	return s, err
}

func momentsOf(p positions) (moments, error) {
	m := make(moments, len(p.lanes))
	for lane, position := range p.lanes {
		if err := m.add(lane, position); err != nil {
			return nil, err
		}
	}
	return m, nil
}

// add notes a state of a lane, unless it has written nothing since the last.
func (m moments) add(lane int, p *eventv1.SinkPosition) error {
	s, err := stateOfLane(lane, p)
	if err != nil {
		return err
	}
	if n := len(m[lane]); n > 0 && m[lane][n-1].rows == s.rows && m[lane][n-1].total == s.total {
		return nil
	}
	m[lane] = append(m[lane], s)
	return nil
}

// combinations is how many moments there may have been.
func (m moments) combinations() int {
	n := 1
	for _, states := range m {
		if n *= len(states); n > maxMoments {
			return n
		}
	}
	return n
}

// follow watches the lanes until each block that was being inserted when the table was opened has settled.
func (s *Service) follow(ctx context.Context, rec *controlv1.PipelineRecord, before, opened positions) (moments, error) {
	m, err := momentsOf(before)
	if err != nil {
		return nil, err
	}
	open := map[int]*eventv1.PendingBlock{}
	for lane, position := range opened.lanes {
		if err := m.add(lane, position); err != nil {
			return nil, err
		}
		if position.GetPending() != nil {
			open[lane] = position.GetPending()
		}
	}
	for deadline := time.Now().Add(followFor); len(open) > 0; {
		if time.Now().After(deadline) || m.combinations() > maxMoments {
			return nil, errMoved
		}
		now, err := s.positions(ctx, rec)
		if err != nil {
			return nil, err
		}
		for lane, block := range open {
			if err := m.add(lane, now.lanes[lane]); err != nil {
				return nil, err
			}
			if now.lanes[lane].GetPending().GetFirstSequence() != block.GetFirstSequence() {
				delete(open, lane)
			}
		}
	}
	return m, nil
}

// settle finds the moment that fits the table best and says how it differs. table has the rows of the table subtracted.
func (m moments) settle(r *reading, table *ledger.Ledger, comparable bool) error {
	r.covers = comparable
	for _, states := range m {
		for _, s := range states {
			if s.ledger == nil || s.gap != "" {
				r.covers, r.gap = false, s.gap
			}
			r.loose = r.loose || s.loose
		}
	}
	if n := m.combinations(); n > maxMoments {
		return errMoved
	}
	best := -1 // number of differing rows at the best moment
	choice := make([]int, len(m))
	for {
		now, err := m.at(choice, r, table)
		if err != nil {
			return err
		}
		switch {
		case now.equal():
			*r = *now
			return nil
		case !r.covers || !now.complete:
		case best < 0 || len(now.missing)+len(now.extra) < best:
			best = len(now.missing) + len(now.extra)
			r.take(now)
		}
		if !m.next(choice) {
			break
		}
	}
	if best >= 0 {
		return nil
	}
	if r.moving {
		return errMoved // what was written at the moment of reading cannot be told
	}
	now, err := m.at(choice, r, table)
	if err == nil {
		r.take(now)
	}
	return err
}

// take takes over how the table differs.
func (r *reading) take(o *reading) {
	r.written, r.sum, r.missing, r.extra, r.complete = o.written, o.sum, o.missing, o.extra, o.complete
}

// at holds a reading against one moment.
func (m moments) at(choice []int, r *reading, table *ledger.Ledger) (*reading, error) {
	out := *r
	out.written = ledger.Partition{}
	for lane, i := range choice {
		if r.covers {
			out.written.Rows += m[lane][i].total.Rows
			out.written.Checksum += m[lane][i].total.Checksum
		} else {
			out.written.Rows += m[lane][i].rows
		}
	}
	if r.covers && r.moving && out.written.Rows != r.rows && m.combinations() > 64 {
		return &out, nil // far from it: not worth to be decoded
	}
	out.sum = ledger.New(native.HashVersion)
	if err := out.sum.Merge(table); err != nil {
		return nil, err
	}
	for lane, i := range choice {
		if l := m[lane][i].ledger; l != nil {
			if err := out.sum.Merge(l); err != nil {
				return nil, err
			}
		}
	}
	missing, extra, complete := out.sum.Decode()
	out.missing, out.extra, out.complete = counted(missing), counted(extra), complete
	return &out, nil
}

// next goes on to the next combination; false after the last, and choice is the first again.
func (m moments) next(choice []int) bool {
	for lane := range choice {
		if choice[lane]++; choice[lane] < len(m[lane]) {
			return true
		}
		choice[lane] = 0
	}
	return false
}
