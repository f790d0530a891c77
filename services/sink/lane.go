package sink

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"go.opentelemetry.io/otel/trace"
	"golang.org/x/sync/errgroup"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	controlv1 "sluice/gen/sluice/control/v1"
	eventv1 "sluice/gen/sluice/event/v1"
	stagev1 "sluice/gen/sluice/stage/v1"
	"sluice/libs/batch"
	"sluice/libs/checkpoint"
	"sluice/libs/clickhouse"
	"sluice/libs/deadletters"
	"sluice/libs/fencedlog"
	"sluice/libs/lanes"
	"sluice/libs/ledger"
	"sluice/services/sink/internal/block"
)

const (
	firstBackoff = 100 * time.Millisecond
	lastBackoff  = 5 * time.Second
	// advanceDelay is how long an advance waits for the next block's pending write to take it along.
	advanceDelay = 200 * time.Millisecond
	// grace is how long a block in flight may take to finish once the lane is asked to stop.
	grace = 5 * time.Second
	// houseInterval is how often an idle lane moves on, and the upstream log is purged.
	houseInterval = 5 * time.Second
)

// unit is what a lane needs of its owner: see lanes.Lane.
type unit interface {
	Report(func(*stagev1.UnitStatus))
	Working(context.Context)
	Checkpoints() <-chan chan<- error
}

// inserter is what a lane needs of clickhouse.Inserter.
type inserter interface {
	Insert(context.Context, clickhouse.Insert) error
	Missing(context.Context, clickhouse.Insert) ([]int, error)
	Absent(context.Context, clickhouse.Insert) ([]int, error)
	Close()
}

// pace is how long to wait between attempts: at first, and at most.
type pace struct{ first, last time.Duration }

// lane is one lane of one pipeline, from the time that it is taken until it is given up.
type lane struct {
	unit     unit
	js       jetstream.JetStream
	nats     *nats.Conn
	log      *slog.Logger
	metrics  *metrics
	instance string
	record   *controlv1.PipelineRecord
	index    int
	same     func(context.Context) (bool, error) // see lanes.Same
	// notBehind: see lanes.NotBehind.
	notBehind func(ctx context.Context, seen uint64) error
	upstream  fencedlog.Log
	purger    fencedlog.Purger
	table     clickhouse.Name
	layouts   map[uint64]*layout
	inserter  inserter
	letters   *letters
	tracer    trace.Tracer                 // may be nil
	publish   func(*eventv1.Receipt) error // may be nil
	trouble   trouble
	pace      pace

	// The rest is owned by the goroutine of send.
	kv    jetstream.KeyValue
	pos   *position
	moved bool // covered and tally are ahead of what is stored
	// Invariant: everything up to covered is in ClickHouse or the dead-letter log, and counted in tally.
	covered     uint64
	coveredTime int64
	tally       batch.Tally
	// Fixed by take and beginAnew: nil for a lane that has written rows which no ledger has. Invariant: it has the rows up to covered, and
	// of a block that is being taken apart those before its part_from.
	ledger *ledger.Ledger
	// taken says which records' rows are covered; what comes again after the log has lost its tail is told by it.
	taken snapshot
	marks []*eventv1.Mark // never changed in place
	epoch uint32          // fixed by take
	// With a join, see SinkPosition: joined is never changed in place, seenOffsets are fixed by take.
	joined       map[string]*eventv1.Taken
	seenOffsets  map[string]int64
	againOffsets map[string]int64 // never changed in place
	// unsure: Kafka has not told what was committed, and was asked then. noted is what the lane was suspicious of when it was taken, by writer of the ingest log.
	unsure bool
	asked  time.Time
	group  map[string]committed // what it said then
	noted  map[string]int64
	healed *eventv1.Healing
	told   []string // what was found since the lane was taken
	// lettersThere: since take.
	lettersThere *deadletters.Watch
	// delivered is the token of the last block that a receipt tells of, none of whose rows was refused; "": there is none. Fixed by take.
	delivered string
	// suspicion is why rows that come next may be in the table; nil: they are not. Kept in the position.
	suspicion *suspicion
}

// run works until ctx ends or something fails that only a new start can mend.
func (l *lane) run(ctx context.Context) error {
	defer l.inserter.Close()
	defer l.letters.close()
	if err := l.take(ctx); err != nil {
		if ctx.Err() != nil && errors.Is(err, context.Canceled) {
			return nil // asked to stop before anything was begun
		}
		return err
	}
	if l.pos.stored.GetClosed() {
		return l.rest(ctx)
	}
	asked := ctx
	g, ctx := errgroup.WithContext(ctx)
	blocks := make(chan *filled)     // unbuffered: one block is sent, the next is collected, none waits between
	free := make(chan *assembler, 2) // their memory
	for range cap(free) {
		free <- &assembler{}
	}
	start, origins := l.origin(), l.suspicion.joins()
	pending := l.pos.stored.GetPending()
	g.Go(func() error { return l.collect(ctx, start, pending, origins, free, blocks) })
	g.Go(func() error { return l.send(ctx, free, blocks) })
	err := g.Wait()
	if asked.Err() != nil && errors.Is(err, context.Cause(asked)) {
		return nil
	}
	return err
}

// take makes the lane ours and its past known.
func (l *lane) take(ctx context.Context) error {
	kv, err := l.js.KeyValue(ctx, checkpoint.Bucket(l.record.GetSpec().GetId()))
	if err != nil {
		return fmt.Errorf("open the state bucket: %w", err)
	}
	l.kv, l.letters.options.Notes = kv, kv
	// From here on the one before cannot begin another block.
	l.pos = &position{
		generation: l.record.GetGeneration(), notBehind: l.notBehind,
		kv: kv, key: positionKey(l.index), owner: l.instance, uid: l.record.GetUid(), pace: l.pace, wait: l.trouble.sending, rewound: l.heal,
	}
	if err := l.pos.open(ctx); err != nil {
		return err
	}
	if err := l.restore(l.pos.stored); err != nil {
		return err
	}
	if l.pos.stored.GetClosed() {
		l.report(0)
		l.trouble.sending(nil)
		return nil
	}
	if err := l.begin(ctx); err != nil {
		return err
	}
	// In this order: what tells that the position went back is of the log as the position knows it.
	if err := l.suspect(ctx); err != nil {
		return err
	}
	if err := l.verify(ctx); err != nil {
		return err
	}
	l.lettersThere = deadletters.NewWatch(l.js, l.upstream.Pipeline)
	if err := l.mendLetters(ctx); err != nil {
		return err
	}
	if p := l.pos.stored.GetPending(); p != nil {
		if err := l.endPredecessor(ctx, l.name(p.GetEpoch(), p.GetFirstSequence(), p.GetLastSequence(), p.GetContent())); err != nil {
			return err
		}
	}
	l.report(0)
	l.trouble.sending(nil)
	return nil
}

// restore takes over what a position says.
func (l *lane) restore(p *eventv1.SinkPosition) (err error) {
	l.covered, l.coveredTime, l.tally = p.GetCoveredSequence(), p.GetCoveredTimeNs(), batch.TallyOf(p.GetTally())
	l.taken = snapshot{p.GetTaken(), p.GetPositions(), p.GetMadeNs()}
	l.marks, l.epoch, l.healed = p.GetMarks(), p.GetEpoch(), p.GetHealed()
	l.letters.had = p.GetLetters()
	l.joined, l.seenOffsets, l.againOffsets = p.GetJoined(), p.GetSeenOffsets(), p.GetAgainOffsets()
	l.suspicion = suspicionOf(p.GetSuspicion())
	if l.covered == 0 && len(l.marks) == 0 && p.GetPending() == nil {
		l.marks = []*eventv1.Mark{{}} // see tracked
	}
	if l.healed != nil {
		l.trouble.healing(l.healed)
	}
	l.ledger, err = ledgerOf(p)
	return err
}

// origin is where the lane goes on.
func (l *lane) origin() origin {
	return origin{after: fencedlog.Mark{Sequence: l.covered, Time: time.Unix(0, l.coveredTime)}, start: l.taken}
}

func (l *lane) sink() *controlv1.ClickHouseSink { return l.record.GetSpec().GetSink().GetClickhouse() }

func (l *lane) name(epoch uint32, first, last, content uint64) block.Name {
	return block.Name{Pipeline: l.record.GetSpec().GetId(), UID: l.record.GetUid(), Table: l.table.String(),
		Lane: l.index, Epoch: epoch, First: first, Last: last, Content: content}
}

// send sends block after block, and keeps the position.
func (l *lane) send(ctx context.Context, free chan<- *assembler, blocks <-chan *filled) error {
	// What is begun may be finished when the lane is asked to stop, but not when it is lost.
	working, release := lingering(ctx, grace)
	defer release()
	house := time.NewTicker(houseInterval)
	defer house.Stop()
	var idle <-chan time.Time
	for {
		if l.moved && idle == nil {
			idle = time.After(advanceDelay)
		}
		select {
		case <-ctx.Done():
			if l.moved && working.Err() == nil {
				if err := l.advance(working); err != nil && !errors.Is(err, errTaken) {
					l.log.Warn("position not written at the stop", "error", err)
				}
			}
			return context.Cause(ctx)
		case b := <-blocks:
			err := l.deliver(ctx, working, b)
			if err == nil && b.rows != nil {
				b.rows.reset()
				free <- b.rows
			}
			b.sent()
			if err != nil {
				return err
			}
			idle = nil
		case reply := <-l.unit.Checkpoints():
			reply <- l.advance(working)
		case <-idle:
			idle = nil
			if err := l.advance(working); err != nil {
				return err
			}
		case <-house.C:
			if err := l.lettersThere.There(working, l.letters.had, houseInterval); err != nil {
				return err
			}
			if err := l.keepHouse(working); err != nil {
				l.log.Debug("housekeeping failed, it will be tried again", "error", err) // what it means for the lane, its status says
			}
		}
	}
}

// advance writes the position if it has changed: what is covered, and no block that is to be sent. A block that is pending
// and not delivered stays so.
func (l *lane) advance(ctx context.Context) error {
	if !l.moved {
		return nil
	}
	return l.write(ctx, nil)
}

// write writes the position: what is covered, and the block that is being sent (nil: none). It writes also what is stored
// already: that it succeeds proves that the lane is ours.
func (l *lane) write(ctx context.Context, pending *eventv1.PendingBlock) error {
	err := l.pos.write(ctx, &eventv1.SinkPosition{
		CoveredSequence: l.covered, CoveredTimeNs: l.coveredTime, Pending: proto.CloneOf(pending), Tally: l.tally.Proto(),
		Ledger: l.ledgerProto(), Taken: l.taken.taken, Positions: l.taken.positions, Marks: l.marks, Epoch: l.epoch, Healed: l.healed,
		Letters: l.letters.had, Joined: l.joined, SeenOffsets: l.seenOffsets, Suspicion: l.suspicion.proto(),
		MadeNs: l.taken.made, AgainOffsets: l.againOffsets,
	})
	if err == nil {
		l.moved = false
	}
	return err
}

// report tells the lane's status. Rows count as settled here, before the advance is durable: they are in the table.
func (l *lane) report(behind uint64) {
	covered, tally, healed := l.covered, l.tally.Proto(), l.healed // which is not changed in place
	l.unit.Report(func(s *stagev1.UnitStatus) {
		s.Position, s.Tally, s.Lag, s.HealedRows = covered, tally, behind, healed.GetRows()
		// For good: a lane that runs has no last error unless each report says it.
		if healed.GetWhat() != "" && s.GetCondition() == stagev1.UnitStatus_RUNNING {
			s.LastError, s.LastErrorTime = healed.GetWhat(), timestamppb.New(time.UnixMilli(healed.GetMs()))
		}
	})
}

// lingering returns a context that outlives ctx by d, unless ctx ends because the lane is lost: then not at all.
func lingering(ctx context.Context, d time.Duration) (context.Context, func()) {
	out, cancel := context.WithCancelCause(context.WithoutCancel(ctx))
	ended := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(ended)
		if !errors.Is(context.Cause(ctx), lanes.ErrLost) {
			timer := time.NewTimer(d)
			defer timer.Stop()
			select {
			case <-timer.C:
			case <-out.Done():
			}
		}
		cancel(context.Cause(ctx))
	})
	return out, func() {
		cancel(context.Canceled)
		if !stop() {
			<-ended
		}
	}
}
