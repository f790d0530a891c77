package ingestor

import (
	"context"
	"log/slog"
	"sync"
	"time"

	controlv1 "sluice/gen/sluice/control/v1"
	"sluice/libs/kafka"
)

// ends knows where the partitions of a topic ended at some moment: only Kafka can tell silence from trouble. What it says are the
// ends for readers of uncommitted records, so that a record of an open transaction, which will be read in time, counts.
type ends struct {
	cluster  *kafka.Cluster
	topic    string
	interval time.Duration // between two questions, at least
	log      *slog.Logger
	asks     chan struct{}

	mu      sync.Mutex
	asked   time.Time       // guarded by mu; when the question was asked
	offsets map[int32]int64 // guarded by mu; the answer
}

func newEnds(cluster *kafka.Cluster, topic string, interval time.Duration, log *slog.Logger) *ends {
	return &ends{cluster: cluster, topic: topic, interval: interval, log: log, asks: make(chan struct{}, 1)}
}

// ask wants a newer answer than there is. It does not wait for it.
func (e *ends) ask() {
	select {
	case e.asks <- struct{}{}:
	default:
	}
}

// after tells when it was last asked, and whether the partition had nothing at or behind the offset then, or something. Neither: it is not known.
func (e *ends) after(partition int32, offset int64) (asked time.Time, nothing, something bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	end, known := e.offsets[partition]
	return e.asked, known && end <= offset, known && end > offset
}

// run asks Kafka for all partitions that want to know, until ctx ends.
func (e *ends) run(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-e.asks:
		}
		began := time.Now()
		offsets, err := e.cluster.EndOffsets(ctx, e.topic, controlv1.Isolation_READ_UNCOMMITTED)
		if err != nil {
			e.log.Debug("ask for the ends of partitions", "topic", e.topic, "error", err)
		} else {
			e.mu.Lock()
			e.asked, e.offsets = began, offsets
			e.mu.Unlock()
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(e.interval):
		}
	}
}
