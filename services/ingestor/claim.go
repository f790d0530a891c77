package ingestor

import (
	"context"
	"strconv"
	"time"

	controlv1 "sluice/gen/sluice/control/v1"
	"sluice/libs/batch"
	"sluice/libs/fencedlog"
	"sluice/libs/rows"
)

// bounds are what Kafka says of a partition.
type bounds struct {
	id            topicID
	earliest, end int64
}

// claim becomes the writer of one partition, of so many that the topic has.
func (s *session) claim(ctx context.Context, topic string, number int32, partitions int, at bounds) (*claimed, error) {
	deps, spec := s.service.deps, s.rec.GetSpec()
	status := s.service.board.own(s.rec, number)
	c := &claimed{status: status, checkpoints: make(chan chan<- error), done: make(chan struct{})}
	s.mu.Lock()
	s.partitions[number] = c
	s.mu.Unlock()

	lanes := make([]int, spec.GetLanes())
	for i := range lanes {
		lanes[i] = i
	}
	ingestLog := fencedlog.Log{Pipeline: spec.GetId(), Stage: fencedlog.Ingest}
	lettersLog := fencedlog.Log{Pipeline: spec.GetId(), Stage: fencedlog.DeadLetters}
	writer, recovered, err := fencedlog.Open(ctx, deps.JS, ingestLog, strconv.Itoa(int(number)), fencedlog.Options{Lanes: lanes, Wait: status.waiting})
	if err != nil {
		return nil, err
	}
	dead, err := fencedlog.LastPosition(ctx, deps.JS, lettersLog, lettersLane, lettersWriter(number))
	if err != nil {
		return nil, err
	}
	pos, err := recoverPosition(at.id, firstOffset(s.rec, at.id, number, at.earliest), len(lanes), recovered, dead)
	if err != nil {
		return nil, err
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
	if pos.fit(topic, number, at.earliest, at.end, time.Now()) {
		s.service.log.Error("records are missing in Kafka", "pipeline", spec.GetId(), "partition", number, "loss", pos.loss.text)
		// Before anything is read: what the logs said so far no longer fits the offsets.
		body, err := pos.body(topic, number)
		if err != nil {
			return nil, err
		}
		if err := writer.Settle(ctx, body); err != nil {
			return nil, err
		}
		dirty = false
	}
	limit := int(deps.NATS.MaxPayload()) - messageOverhead
	share := int64(settleBytes)
	if most := writer.MaxBytes(); most > 0 {
		limit = min(limit, int(most/4))
		// Half of the log is for what is settled, which a purge can remove: a full log gets free.
		share = min(share, max(most/2/int64(max(partitions, 1)), minShare))
	}
	large := min(256<<10, limit/4)
	buffers := max(len(s.group), 1) * len(lanes) * buffersPerLane
	p := &partition{
		rec: s.rec, topic: topic, number: number, cluster: s.cluster, log: s.service.log, status: status,
		linger: linger(spec.GetBatch().GetMaxDelay().AsDuration()),
		fields: batch.Fields{Keys: spec.GetDedup() != nil, Versions: spec.GetDedup().GetKeep() == controlv1.Keep_LATEST},
		// The event's own time otherwise.
		byArrival: spec.GetDedup() != nil && spec.GetDedup().GetTime() == "",
		revision:  current(s.rec).GetRevision(),
		plan:      s.plan, parser: rows.NewParser(s.plan), pos: pos, writer: writer,
		letters: &letters{limit: int(deps.NATS.MaxPayload()) - messageOverhead, open: func(ctx context.Context) (*fencedlog.Writer, string, error) {
			w, past, err := fencedlog.Open(ctx, deps.JS, lettersLog, lettersWriter(number), fencedlog.Options{Lanes: []int{lettersLane}, Wait: status.waiting})
			return w, past.Last[lettersLane].Position, err
		}},
		app:   appender{writer: writer, limit: limit, plan: s.plan},
		large: large,
		share: share,
		// Twice: rows are held as columns, and as a message while it is appended.
		batchBytes: max(minBatchBytes, min(batchBytes, 2*large, bufferBudget/2/buffers)),
		dirty:      dirty,
		mark:       func(int64) {},
		same:       s.incarnation.same,
		hold:       s.service.holdLarge,
	}
	c.partition = p
	status.settled(pos)
	status.running()
	return c, nil
}

// linger is how long rows wait for company in a batch: a small part of the delay that the user
// allows before a row is in ClickHouse.
func linger(maxDelay time.Duration) time.Duration {
	return min(max(maxDelay/10, 2*time.Millisecond), 50*time.Millisecond)
}
