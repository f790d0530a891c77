package control

import (
	"cmp"
	"context"
	"fmt"
	"slices"

	"golang.org/x/sync/errgroup"
	"google.golang.org/protobuf/proto"

	controlv1 "sluice/gen/sluice/control/v1"
	eventv1 "sluice/gen/sluice/event/v1"
	"sluice/libs/checkpoint"
	"sluice/libs/ledger"
	"sluice/libs/native"
	"sluice/libs/spec"
)

// positions is where all lanes of a sink stand. It is of one moment if nothing was written until one that is read later.
type positions struct {
	lanes []*eventv1.SinkPosition
}

// parallelReads bounds the requests to NATS at once: positions of many lanes have to be read fast to be of one moment.
const parallelReads = 32

func (s *Service) positions(ctx context.Context, rec *controlv1.PipelineRecord) (positions, error) {
	out := positions{lanes: make([]*eventv1.SinkPosition, len(spec.EveryLane(rec)))}
	kv, err := s.js.KeyValue(ctx, checkpoint.Bucket(rec.GetSpec().GetId()))
	if err != nil {
		return out, stored(ctx, fmt.Errorf("verify: open the state bucket: %w", err))
	}
	group, within := errgroup.WithContext(ctx)
	group.SetLimit(parallelReads)
	for lane := range out.lanes {
		group.Go(func() error {
			within, cancel := context.WithTimeout(within, readTimeout)
			defer cancel()
			var err error
			if out.lanes[lane], _, err = positionOf(within, kv, lane); err != nil {
				return fmt.Errorf("verify: %w", err)
			}
			return nil
		})
	}
	return out, stored(ctx, group.Wait())
}

// still tells whether no lane was writing at any time between the two readings. What a lane has come past without rows in it, as the heartbeats of
// a join, is no writing: a block that was settled between them is in the tally, which only rises.
func still(before, after positions) bool {
	return before.idle() && after.idle() && slices.EqualFunc(before.lanes, after.lanes, func(a, b *eventv1.SinkPosition) bool {
		return a.GetEpoch() == b.GetEpoch() && proto.Equal(tallyOf(a), tallyOf(b)) && proto.Equal(a.GetLedger(), b.GetLedger())
	})
}

// tallyOf is what a lane has counted; one that has no position yet has counted nothing.
func tallyOf(p *eventv1.SinkPosition) *eventv1.Tally {
	if t := p.GetTally(); t != nil {
		return t
	}
	return &eventv1.Tally{}
}

// hung tells of blocks that were being inserted at both readings; "" when there are none.
func hung(before, after positions) string {
	for lane, p := range before.lanes {
		a, b := p.GetPending(), after.lanes[lane].GetPending()
		if a != nil && a.GetFirstSequence() == b.GetFirstSequence() && p.GetEpoch() == after.lanes[lane].GetEpoch() {
			return fmt.Sprintf("the block of lane %d, messages %d to %d, of %d rows", lane, a.GetFirstSequence(), a.GetLastSequence(), a.GetRows())
		}
	}
	return ""
}

func (p positions) idle() bool { return p.pending() == 0 && !slices.ContainsFunc(p.lanes, hasPending) }

func hasPending(p *eventv1.SinkPosition) bool { return p.GetPending() != nil }

// pending is the number of rows that are being inserted.
func (p positions) pending() (rows uint64) {
	for _, lane := range p.lanes {
		rows += lane.GetPending().GetRows()
	}
	return rows
}

// written is how many rows all lanes have counted as written.
func (p positions) written() (rows uint64) {
	for _, lane := range p.lanes {
		rows += lane.GetTally().GetRows()
	}
	return rows
}

// ledger adds the lanes' ledgers up. why says in plain words when they do not tell of every row that was written.
func (p positions) ledger() (sum *ledger.Ledger, why string, err error) {
	sum = ledger.New(native.HashVersion)
	for lane, position := range p.lanes {
		one, gap, err := ledgerOf(lane, position)
		if err != nil {
			return nil, "", err
		}
		if why = cmp.Or(why, gap); one == nil {
			continue
		}
		if err := sum.Merge(one); err != nil {
			return nil, "", fmt.Errorf("verify: lane %d: %w", lane, err)
		}
	}
	return sum, why, nil
}

// loose tells whether a lane may have counted rows twice, or not at all: its join has put out again what it had put out before, and the lane could not tell which of the rows that the table
// had were counted.
func loose(position *eventv1.SinkPosition) bool {
	return position.GetLedger() == nil && len(position.GetAgainOffsets()) > 0
}

// ledgerOf reads a lane's ledger; nil if it has none that can be used.
func ledgerOf(lane int, position *eventv1.SinkPosition) (l *ledger.Ledger, why string, err error) {
	m := position.GetLedger()
	switch {
	case m == nil && position.GetTally().GetRecords() > 0:
		why = fmt.Sprintf("lane %d has no ledger, since an earlier version of Sluice has written rows of it", lane)
		if loose(position) {
			why = fmt.Sprintf("lane %d has no ledger, since its join has put out again what it had put out before, and it could not be told which rows the table had", lane)
		}
		return nil, why, nil
	case m == nil:
		return ledger.New(native.HashVersion), "", nil
	case m.GetHash() != native.HashVersion:
		return nil, fmt.Sprintf("lane %d has a ledger with hashes of version %d; this version of Sluice makes %d", lane, m.GetHash(), native.HashVersion), nil
	}
	if l, err = ledger.Of(m); err != nil {
		return nil, "", fmt.Errorf("verify: lane %d: %w", lane, err)
	}
	if total := l.Total(); position.GetPending() == nil && total.Rows != position.GetTally().GetRows() {
		why = fmt.Sprintf("the ledger of lane %d tells of %d rows and the lane has written %d", lane, total.Rows, position.GetTally().GetRows())
	}
	return l, why, nil
}
