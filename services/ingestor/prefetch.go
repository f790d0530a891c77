package ingestor

import (
	"sync"

	"github.com/IBM/sarama"
)

const (
	// A partition's consumer may hold so many bytes that we have not taken, and one fetched response more: with many partitions
	// less, so that all of a topic's stay within prefetchBudget; but not below minPrefetch.
	maxPrefetch    = 16 << 20
	minPrefetch    = 2 << 20
	prefetchBudget = 256 << 20
	// prefetchRecord is what a record takes besides its key and value.
	prefetchRecord = 256
	// prefetchStep is how many bytes a partition takes before it says so: to say it for each record costs as much as a column.
	prefetchStep = 64 << 10
)

// prefetch bounds in bytes what waits for us in Kafka's client, which itself counts records only: while appends
// stand still, its channel fills up. It sees every record on its way in and is told of those that are taken.
// The client is told to pause or resume with mu held, so that the last word is the right one.
type prefetch struct {
	group sarama.ConsumerGroup // set before the first record
	topic string

	mu         sync.Mutex
	limit      int64                 // guarded by mu
	partitions map[int32]*prefetched // guarded by mu
}

// prefetched is guarded by prefetch.mu.
type prefetched struct {
	bytes  int64
	seen   int64 // offset of the last record counted, plus one: the client may show a record twice
	paused bool
}

// begin forgets what was before for the partitions of a new session.
func (f *prefetch) begin(partitions []int32) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.partitions = make(map[int32]*prefetched, len(partitions))
	for _, number := range partitions {
		f.partitions[number] = &prefetched{}
	}
	f.limit = min(max(prefetchBudget/int64(max(len(partitions), 1)), minPrefetch), maxPrefetch)
	f.group.Resume(map[string][]int32{f.topic: partitions})
}

// OnConsume implements sarama.ConsumerInterceptor.
func (f *prefetch) OnConsume(msg *sarama.ConsumerMessage) {
	f.mu.Lock()
	defer f.mu.Unlock()
	p := f.partitions[msg.Partition]
	if p == nil || msg.Offset < p.seen {
		return
	}
	p.seen = msg.Offset + 1
	p.bytes += sizeOf(msg)
	if !p.paused && p.bytes > f.limit {
		p.paused = true
		f.group.Pause(map[string][]int32{f.topic: {msg.Partition}})
	}
}

// taken says that records of so many bytes are no longer the client's.
func (f *prefetch) taken(partition int32, bytes int64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	p := f.partitions[partition]
	if p == nil {
		return
	}
	p.bytes -= bytes
	// Early enough that records come before the last one is taken.
	if p.paused && p.bytes <= f.limit/4*3 {
		p.paused = false
		f.group.Resume(map[string][]int32{f.topic: {partition}})
	}
}

func sizeOf(msg *sarama.ConsumerMessage) int64 {
	return int64(len(msg.Key)+len(msg.Value)) + prefetchRecord
}
