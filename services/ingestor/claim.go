package ingestor

import (
	"context"
	"time"

	controlv1 "sluice/gen/sluice/control/v1"
	"sluice/libs/batch"
	"sluice/libs/deadletters"
	"sluice/libs/fencedlog"
	"sluice/libs/kafka"
	"sluice/libs/rows"
	"sluice/libs/spec"
)

// bounds are what Kafka says of a partition.
type bounds struct {
	id            topicID
	earliest, end int64
	// committed is what the group has committed; none: nothing, or it cannot be told.
	committed kafka.Committed
}

// claim becomes the writer of one partition, of so many that the topic has.
func (s *session) claim(ctx context.Context, topic string, number int32, partitions int, at bounds) (*claimed, error) {
	deps, pipeline, source := s.service.deps, s.rec.GetSpec(), s.branch.Source
	status := s.service.board.own(s.rec, source, number)
	c := &claimed{status: status, checkpoints: make(chan chan<- error), done: make(chan struct{})}
	s.mu.Lock()
	s.partitions[number] = c
	s.mu.Unlock()

	sets := laneSetsOf(s.rec)
	ingestLog := fencedlog.Log{Pipeline: pipeline.GetId(), Stage: fencedlog.Ingest}
	lettersLog := fencedlog.Log{Pipeline: pipeline.GetId(), Stage: fencedlog.DeadLetters}
	writer, recovered, err := fencedlog.Open(ctx, deps.JS, ingestLog, fencedlog.IngestWriter(source, number), fencedlog.Options{Lanes: sets.lanes(), Wait: status.waiting})
	if err != nil {
		return nil, err
	}
	if err := s.sameLanes(ctx); err != nil {
		return nil, err
	}
	if err := s.notBehind(ctx, recovered.Body); err != nil {
		return nil, err
	}
	dead, err := fencedlog.LastPosition(ctx, deps.JS, lettersLog, lettersLane, lettersWriter(source, number))
	if err != nil {
		return nil, err
	}
	pos, err := recoverPosition(at.id, firstOffset(s.rec, source, at.id, number, at.earliest), sets, recovered, dead)
	if err != nil {
		return nil, err
	}
	pos.generation = s.rec.GetGeneration()
	if pos.changed {
		if err := s.intact(ctx, sets); err != nil {
			return nil, err
		}
	}
	if number == 0 {
		if err := s.takeGone(ctx, topic, partitions, at.id, sets); err != nil {
			return nil, err
		}
	}
	if pos.highest() > at.end {
		// Our predecessor may have read on since we asked; now it cannot settle any more.
		ends, err := s.cluster.EndOffsets(ctx, topic, controlv1.Isolation_READ_UNCOMMITTED)
		if err != nil {
			return nil, err
		}
		at.end = ends[number]
	}
	dirty := pos.fresh
	if pos.wentBack(pipeline.GetId(), topic, number, at, time.Now()) {
		s.service.log.Error("the ingest log had been further", "pipeline", pipeline.GetId(), "source", source, "partition", number, "loss", pos.loss.text)
		// Before anything is read, and before the group's offset goes back: what was read before may be in the table.
		if err := settlePosition(ctx, writer, pos, topic, number); err != nil {
			return nil, err
		}
	}
	if pos.changed {
		// Before anything is appended to a lane of the new set: until then nobody can tell that the old one gets no more.
		if err := settlePosition(ctx, writer, pos, topic, number); err != nil {
			return nil, err
		}
	}
	if pos.fit(topic, number, at.earliest, at.end, time.Now()) {
		s.service.log.Error("records are missing in Kafka", "pipeline", pipeline.GetId(), "source", source, "partition", number, "loss", pos.loss.text)
		// Before anything is read: what the logs said so far no longer fits the offsets.
		if err := settlePosition(ctx, writer, pos, topic, number); err != nil {
			return nil, err
		}
		dirty = false
	}
	limit := int(deps.NATS.MaxPayload()) - messageOverhead
	share := int64(settleBytes)
	if most := writer.MaxBytes(); most > 0 {
		limit = min(limit, int(most/4))
		// Half of the log is for what is settled, which a purge can remove: a full log gets free.
		share = min(share, max(most/2/int64(max(partitions*s.branches, 1)), minShare))
	}
	large := min(256<<10, limit/4)
	buffers := max(len(s.group), 1) * s.branches * sets.current.Count * buffersPerLane
	dedup := s.branch.Dedup
	p := &partition{
		rec: s.rec, topic: topic, number: number, cluster: s.cluster, log: s.service.log, status: status,
		branch: s.branch, pulse: s.pulse(pos, partitions),
		linger:   linger(pipeline.GetBatch().GetMaxDelay().AsDuration(), partitions*s.branches),
		delay:    pipeline.GetBatch().GetMaxDelay().AsDuration(),
		patience: min(pipeline.GetBatch().GetMaxDelay().AsDuration(), maxPatience),
		fields:   batch.Fields{Keys: dedup != nil, Versions: dedup.GetKeep() == controlv1.Keep_LATEST, Join: s.plan.Join()},
		// The event's own time otherwise.
		byArrival: dedup != nil && dedup.GetTime() == "",
		revision:  current(s.rec).GetRevision(),
		plan:      s.plan, parser: rows.NewParser(s.plan), pos: pos, writer: writer,
		letters: &letters{count: s.countLetters(number), limit: int(deps.NATS.MaxPayload()) - messageOverhead, open: func(ctx context.Context) (*fencedlog.Writer, string, error) {
			w, past, err := fencedlog.Open(ctx, deps.JS, lettersLog, lettersWriter(source, number), fencedlog.Options{Lanes: []int{lettersLane}, Wait: status.waiting})
			return w, past.Last[lettersLane].Position, err
		}, last: func(ctx context.Context) (string, error) {
			return fencedlog.LastPosition(ctx, deps.JS, lettersLog, lettersLane, lettersWriter(source, number))
		}, watch: deadletters.NewWatch(deps.JS, pipeline.GetId())},
		app: appender{writer: writer, limit: limit, plan: s.plan, scratches: &s.service.scratches, trace: newTracing(deps.Tracer, pipeline.GetId(), source, topic,
			s.branch.Spec.GetKafka().GetGroup(), number, ingestLog.Stream(), fencedlog.IngestWriter(source, number))},
		large: large,
		share: share,
		// Twice: rows are held as columns, and as a message while it is appended.
		batchBytes: max(minBatchBytes, min(batchBytes, 2*large, bufferBudget/2/buffers)),
		dirty:      dirty,
		mark:       func(int64) {},
		taken:      s.prefetch.taken,
		same:       s.incarnation.same,
		hold:       s.service.holdLarge,
	}
	p.counts = s.service.metrics.of(pipeline.GetId(), source, pos.tally)
	p.app.counts = p.counts
	c.partition = p
	status.settled(pos)
	if !pos.missing.any() { // else that is to be made good first
		status.running()
	}
	return c, nil
}

func settlePosition(ctx context.Context, writer *fencedlog.Writer, pos position, topic string, number int32) error {
	body, err := pos.body(topic, number)
	if err != nil {
		return err
	}
	return writer.Settle(ctx, body)
}

// lingerShare keeps what a lane gets from all partitions at 500 batches a second, as far as the delay permits.
const lingerShare = 2 * time.Millisecond

// maxPatience is the most that rows of a partition that is behind wait for company, if the delay permits: half of what passes between two
// settles, which seal all batches anyway.
const maxPatience = settleInterval / 2

// linger is how long rows wait for company in a batch: a small part of the delay that the user allows before a row is in ClickHouse. It
// is longer with many partitions: each of them sends a batch to each lane that often, and a lane of the next stage takes them one by one.
func linger(maxDelay time.Duration, partitions int) time.Duration {
	return min(max(min(maxDelay/10, 50*time.Millisecond), time.Duration(partitions)*lingerShare), maxDelay/4)
}

// pulse is nil where nobody goes by how far partitions have come.
func (s *session) pulse(pos position, partitions int) *pulse {
	join := s.rec.GetSpec().GetJoin()
	if !s.branch.TellsProgress() {
		return nil
	}
	b := &pulse{
		interval: spec.Heartbeat(s.rec.GetSpec(), s.branch, partitions), partitions: partitions, ends: s.ends, idleFrom: time.Now(), timedAt: time.Now(),
		join: join != nil, maxFuture: join.GetMaxFuture().AsDuration().Milliseconds(), dedup: s.branch.Dedup.GetTime() != "",
	}
	b.least, b.rest = spec.IdleHeartbeat(s.rec.GetSpec(), s.branch, partitions)
	// Nothing may have come since the last record was read: that is found out before it is said.
	if last := time.UnixMilli(pos.lastRecord); pos.lastRecord > 0 && last.Before(b.idleFrom) {
		b.idleFrom = last
	}
	return b
}
