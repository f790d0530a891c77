package sink

import (
	"fmt"

	eventv1 "sluice/gen/sluice/event/v1"
	"sluice/libs/ledger"
	"sluice/libs/native"
	"sluice/services/sink/internal/block"
)

// ledgerOf is the ledger to go on with. A lane whose rows an earlier version has written, or hashed in another way, has none:
// one that lacks rows would be wrong for good.
func ledgerOf(p *eventv1.SinkPosition) (*ledger.Ledger, error) {
	m := p.GetLedger()
	switch {
	case m == nil && (p.GetTally().GetRecords() > 0 || p.GetPending().GetPartTo() > 0):
		return nil, nil
	case m == nil:
		return ledger.New(native.HashVersion), nil
	case m.GetHash() != native.HashVersion:
		return nil, nil
	}
	out, err := ledger.Of(m)
	if err != nil {
		return nil, fmt.Errorf("the lane's position: %w", err)
	}
	return out, nil
}

func (l *lane) ledgerProto() *eventv1.Ledger {
	if l.ledger == nil {
		return nil
	}
	return l.ledger.Proto()
}

// settle notes that rows, counted over all groups, are in the table or, refused, in the dead-letter log. Those that are in the ledger already are left out.
func (s *sending) settle(at block.Range, refused bool) {
	if s.settled == nil {
		return
	}
	if len(s.pending.GetCounted()) == 0 {
		s.settlePart(at, refused)
		return
	}
	for at.From < at.To {
		part := block.Range{From: at.From, To: at.From + 1}
		for part.To < at.To && s.isCounted(part.To) == s.isCounted(part.From) {
			part.To++
		}
		if !s.isCounted(part.From) {
			s.settlePart(part, refused)
		}
		at.From = part.To
	}
}

func (s *sending) settlePart(at block.Range, refused bool) {
	before := 0
	for _, g := range s.groups {
		r := block.Range{From: max(at.From-before, 0), To: min(at.To-before, g.Rows)}
		if r.Rows() > 0 {
			g.account.enter(s.settled, r, refused)
		}
		before += g.Rows
	}
}

// enter puts what is settled into the lane's ledger, which from here on may be stored only with a position that says the
// same: part_from, or covered.
func (s *sending) enter() error {
	if s.settled == nil {
		return nil
	}
	if err := s.lane.ledger.Merge(s.settled); err != nil {
		return err
	}
	s.settled.Reset()
	return nil
}
