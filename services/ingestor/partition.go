package ingestor

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/IBM/sarama"

	controlv1 "sluice/gen/sluice/control/v1"
	"sluice/libs/batch"
	"sluice/libs/fencedlog"
	"sluice/libs/kafka"
	"sluice/libs/rows"
	"sluice/libs/spec"
)

const (
	settleInterval = time.Second
	// settleBytes bounds what cannot be purged from the log because it is newer than the fence.
	settleBytes = 16 << 20
	// idleSettle is how soon a partition that has nothing more to read makes its position known.
	idleSettle = 50 * time.Millisecond
	// stopGrace bounds how long a partition that is given up may take to put into the log what it has read.
	stopGrace = 5 * time.Second
	// minShare is the least that a partition may leave unsettled, however small the log.
	minShare = 16 << 10
	// silence is how long a partition must have been silent for its topic to be looked at again: half
	// of the time for which the consumer always waits after it has lost a topic.
	silence = kafka.RetryBackoff / 2
	// burst is how many records are taken between two looks at the clock.
	burst = 1024
)

// errTopicChanged says that the topic was deleted and made anew while it was being read.
var errTopicChanged = errors.New("the topic was made anew: it has another id")

// partition moves the records of one Kafka partition into the lanes of the ingest log. Everything
// in it is owned by the goroutine in run, but for what the appenders are handed.
type partition struct {
	rec       *controlv1.PipelineRecord
	topic     string
	number    int32
	cluster   *kafka.Cluster
	log       *slog.Logger
	status    *unit
	linger    time.Duration // of rows in a batch that is not full
	patience  time.Duration // the same while there is much to read
	delay     time.Duration // that the user allows until a row is in a block
	branch    spec.Branch
	pulse     *pulse // nil where nobody goes by how far partitions have come
	fields    batch.Fields
	byArrival bool
	revision  uint64

	plan    *rows.Plan
	parser  *rows.Parser
	pos     position // next and tally run ahead of what is settled
	writer  *fencedlog.Writer
	letters *letters
	lanes   []*lane
	app     appender
	counts  *counts
	mark    func(offset int64) // tells the consumer group
	marked  int64              // what it was told last
	words   <-chan struct{}    // there is more to tell it; may be nil
	taken   func(partition int32, bytes int64)
	same    func(ctx context.Context, id topicID, since time.Time) error
	hold    func(ctx context.Context, bytes int) (release func(), err error) // memory for a large event

	large       int       // bytes of a value from which on an event travels alone
	batchBytes  int       // bytes of a lane's buffer from which on it is sealed
	share       int64     // bytes that may be in the log unsettled: its part of what cannot be purged
	held        int64     // bytes taken since the last settle
	dirty       bool      // pos is ahead of what is settled
	pending     int       // rows in fill buffers
	pendingFrom time.Time // when the oldest of them was taken
	lastArrival int64
	lastRecord  time.Time
	lastSettle  time.Time
	lastProbe   time.Time
	lastSame    time.Time // when the topic's id was last known to be the same
	rate        float64   // records a second, as of the last settle
	settledAt   uint64    // records as of the last settle
	highWater   int64     // end of the partition, as far as the consumer knows
	drained     bool      // the consumer had no more for us after the last burst
	stalled     bool      // an appender was behind
	resting     bool      // there were heartbeats since the last settle
}

// run reads the claim until it ends or a lane fails. When ctx (the consumer group's session) ends,
// what was read is put into the log and settled, within stopGrace.
func (p *partition) run(ctx context.Context, claim sarama.ConsumerGroupClaim, checkpoints <-chan chan<- error) (err error) {
	// Appends outlive the session by the grace, so that little has to be read again.
	work, cancel := context.WithCancelCause(context.WithoutCancel(ctx))
	defer cancel(nil)
	stop := context.AfterFunc(ctx, func() {
		timer := time.AfterFunc(stopGrace, func() { cancel(context.DeadlineExceeded) })
		context.AfterFunc(work, func() { timer.Stop() })
	})
	defer stop()
	p.app.fail = cancel
	defer p.startLanes(work)()
	defer func() {
		if err != nil {
			cancel(err) // what is being appended is not worth waiting for: recovery finds out
		}
	}()

	p.lastSettle, p.settledAt = time.Now(), p.pos.tally.Records
	if p.pulse != nil {
		p.pulse.lanes = make([]said, len(p.lanes))
	}
	if err := p.remakeLetters(work); err != nil {
		return err
	}
	if p.dirty {
		if err := p.settle(work); err != nil {
			return err
		}
	}
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case msg, ok := <-claim.Messages():
			if !ok {
				return p.finish(work)
			}
			if err := p.takeBurst(work, msg, claim.Messages()); err != nil {
				return err
			}
			p.pulse.record(time.Now()) // after the last one was taken, however long that took
		case <-timer.C:
		case reply := <-checkpoints:
			reply <- p.settle(work)
		case <-p.words:
			p.mark(p.marked)
		case <-ctx.Done():
			return p.finish(work)
		case <-work.Done():
			return context.Cause(work)
		}
		next, err := p.tick(work, claim)
		if err != nil {
			return err
		}
		timer.Reset(next)
	}
}

// take puts one record where it belongs: a lane, the dead letters, or nowhere. Whatever is sealed on
// the way before the record itself is in a buffer, is sealed with a position that does not cover it.
func (p *partition) take(ctx context.Context, msg *sarama.ConsumerMessage) error {
	if msg.Offset < p.pos.next {
		return nil // read again after a reset of the consumer: done before
	}
	if p.share < settleBytes && p.held > 0 && p.held+int64(len(msg.Value)) > p.share {
		if err := p.settle(ctx); err != nil {
			return err
		}
	}
	p.held += int64(len(msg.Value))
	if msg.Value == nil {
		p.advance(msg)
		p.pos.tally.Tombstones++
		return nil
	}
	row, reject := p.parser.Parse(p.record(msg))
	if reject != nil {
		return p.refuse(ctx, msg, reject.Field, reject.Reason)
	}
	l := p.lanes[p.plan.Lane(row, msg.Key, p.number, len(p.lanes))]
	if len(msg.Value) >= p.large {
		return p.takeLarge(ctx, msg, row, l)
	}
	if p.logged(msg, row, l) {
		return p.recount(ctx, msg, row, l)
	}
	if !l.fill.rows.Fits(msg.Offset) {
		if err := p.seal(ctx, l, sealed{}); err != nil {
			return err
		}
	}
	if reject := p.parser.AppendTo(l.fill.columns); reject != nil {
		return p.refuse(ctx, msg, reject.Field, reject.Reason)
	}
	p.advance(msg)
	p.add(l, msg, row)
	// To measure costs as much as a column of a row: seldom for small events, always for those of
	// which a few make a batch.
	measure := l.fill.rows.Rows()%64 == 0 || len(msg.Value) >= p.batchBytes/64
	if l.fill.rows.Rows() >= batchRows || measure && l.fill.size() >= p.batchBytes {
		return p.seal(ctx, l, sealed{})
	}
	return nil
}

// advance moves the position over the record.
func (p *partition) advance(msg *sarama.ConsumerMessage) {
	p.pos.next = msg.Offset + 1
	p.pos.tally.Records++
	p.dirty = true
}

func (p *partition) add(l *lane, msg *sarama.ConsumerMessage, row rows.Row) {
	if l.fill.rows.Rows() == 0 {
		l.since = time.Now()
	}
	if p.pending == 0 {
		p.pendingFrom = l.since
	}
	p.pending++
	l.fill.rows.Add(row.Row, p.fields)
	p.pos.tally.Rows++
	l.fill.origin.note(msg)
	p.saw(row)
}

// logged tells that the lane's log has the record since before a crash, or a lane of the set before.
func (p *partition) logged(msg *sarama.ConsumerMessage, row rows.Row, l *lane) bool {
	return msg.Offset < p.pos.lanes[l.index] || p.pos.before.has(row, p.plan, msg.Key, p.number, msg.Offset)
}

// recount counts a record that the lane's log has. Its columns are thrown away again: only they
// tell a row from a dead letter, and it must count as it did the first time.
func (p *partition) recount(ctx context.Context, msg *sarama.ConsumerMessage, row rows.Row, l *lane) error {
	before := l.fill.rows.Rows()
	if reject := p.parser.AppendTo(l.fill.columns); reject != nil {
		return p.refuse(ctx, msg, reject.Field, reject.Reason)
	}
	for _, c := range l.fill.columns {
		c.Truncate(before)
	}
	p.advance(msg)
	p.pos.tally.Rows++
	p.saw(row)
	return nil
}

// settle makes everything that was read durable and writes the position into the fence.
func (p *partition) settle(ctx context.Context) error {
	if err := p.sealAll(ctx); err != nil {
		return err
	}
	if err := p.flushLetters(ctx); err != nil {
		return err
	}
	p.app.flying.Wait()
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	now := time.Now()
	p.rate, p.settledAt = float64(p.pos.tally.Records-p.settledAt)/max(now.Sub(p.lastSettle).Seconds(), 0.001), p.pos.tally.Records
	p.lastSettle = now
	if !p.dirty {
		return nil
	}
	if p.pulse != nil {
		p.pos.lastRecord = p.pulse.idleFrom.UnixMilli()
	}
	if p.pos.before.highest() <= p.pos.next {
		p.pos.before = before{} // all of it has gone by
	}
	body, err := p.pos.body(p.topic, p.number)
	if err != nil {
		return err
	}
	// A crash before this: records since the last fence are read again, and lanes skip what they have.
	if err := p.writer.Settle(ctx, body); err != nil {
		return err
	}
	p.dirty, p.resting, p.held = false, false, 0
	p.status.settled(p.pos)
	p.counts.settled(ctx, p.pos.tally)
	p.marked = p.pos.next
	p.mark(p.marked)
	return nil
}

// finish settles when the partition is given up.
func (p *partition) finish(ctx context.Context) error {
	if err := p.settle(ctx); err != nil {
		return fmt.Errorf("give up partition %d: %w", p.number, err)
	}
	return nil
}
