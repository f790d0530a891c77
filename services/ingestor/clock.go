package ingestor

import (
	"context"
	"time"

	"github.com/IBM/sarama"

	"sluice/libs/rows"
)

const (
	// probeIdle is how long a partition is silent before it is asked why it lags.
	probeIdle     = 200 * time.Millisecond
	probeInterval = time.Second
	idleTick      = 500 * time.Millisecond
)

// tick does what is due and says when to come back.
func (p *partition) tick(ctx context.Context, claim sarama.ConsumerGroupClaim) (time.Duration, error) {
	now := time.Now()
	p.highWater = claim.HighWaterMarkOffset()
	p.status.highWater(p.highWater)
	if err := p.lettersThere(ctx); err != nil {
		return 0, err
	}
	next, err := p.due(ctx, claim, now)
	if err != nil {
		return 0, err
	}
	next = min(next, p.beat(now))
	return next, p.rest(ctx, now)
}

func (p *partition) due(ctx context.Context, claim sarama.ConsumerGroupClaim, now time.Time) (time.Duration, error) {
	if p.pending > 0 || p.letters.waiting() > 0 {
		if due := p.company(claim.HighWaterMarkOffset(), now); due > 0 {
			return due, nil
		}
		if err := p.sealAll(ctx); err != nil {
			return 0, err
		}
		if err := p.flushLetters(ctx); err != nil {
			return 0, err
		}
	}
	idle := now.Sub(p.lastRecord)
	if p.dirty {
		if idle >= idleSettle || now.Sub(p.lastSettle) >= settleInterval || p.writer.Unsettled() >= p.share {
			return idleTick, p.settle(ctx)
		}
		return idleSettle, nil
	}
	if idle >= probeIdle && now.Sub(p.lastProbe) >= probeInterval && claim.HighWaterMarkOffset() > p.pos.next {
		return idleTick, p.probe(ctx)
	}
	return idleTick, nil
}

// company is how long the rows that are pending may wait on for others in their batches; 0: no longer.
//
// While there is more to read in Kafka than is pending, to read that takes as long again as the rows have waited: they are late in any case, and
// batches that fill up cost the stages and NATS a fraction of those that a clock cuts off.
func (p *partition) company(highWater int64, now time.Time) time.Duration {
	if p.pending == 0 {
		return 0
	}
	waited := now.Sub(p.pendingFrom)
	if due := p.linger - waited; due > 0 {
		return due
	}
	behind := highWater-p.pos.next >= int64(max(p.pending, burst))
	if coming := now.Sub(p.lastRecord) < p.linger; !behind || !coming {
		return 0
	}
	return max(0, min(p.patience-waited, p.linger)) // and look again whether it is still so
}

// lateShare is how much later than the user allows rows must be in any case for it not to matter how long blocks take to fill.
const lateShare = 4

// late tells whether to read what Kafka still holds takes much longer than a row may wait, so that rows are late whatever is done.
func (p *partition) late() bool {
	ahead := float64(p.highWater - p.pos.next)
	return ahead >= burst && ahead > p.rate*p.delay.Seconds()*lateShare
}

// probe moves the position over offsets that hold no record to read: control records, aborted
// transactions, what was compacted away. The consumer passes them without a word, and at the end of
// a partition the lag would never become 0.
func (p *partition) probe(ctx context.Context) error {
	p.lastProbe = time.Now()
	next, _, err := p.cluster.NextRecord(ctx, p.topic, p.number, p.pos.next, p.branch.Spec.GetKafka().GetIsolation())
	if err != nil {
		p.log.Debug("probe for records", "partition", p.number, "offset", p.pos.next, "error", err)
		return nil
	}
	if next > p.pos.next {
		p.pos.next = next
		p.dirty = true
		return p.settle(ctx)
	}
	return nil
}

func (p *partition) record(msg *sarama.ConsumerMessage) rows.Record {
	r := rows.Record{
		Topic: msg.Topic, Partition: msg.Partition, Offset: msg.Offset,
		TimestampMS: msg.Timestamp.UnixMilli(), Key: msg.Key, Value: msg.Value,
	}
	if p.plan.NeedsHeaders() {
		for _, h := range msg.Headers {
			r.Headers = append(r.Headers, rows.Header{Key: h.Key, Value: h.Value})
		}
	}
	return r
}
