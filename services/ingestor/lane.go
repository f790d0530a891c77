package ingestor

import (
	"context"
	"errors"
	"sync"
	"time"

	"sluice/libs/batch"
	"sluice/libs/fencedlog"
	"sluice/libs/native"
	"sluice/libs/rows"
)

const (
	// batchBytes is when a lane's buffer is sealed, in bytes before compression. With many partitions
	// it is less, so that all buffers of a session stay within bufferBudget; but not below minBatchBytes.
	batchBytes    = 512 << 10
	minBatchBytes = 16 << 10
	bufferBudget  = 256 << 20
	// largeBudget bounds what large events take that are on their way, largeFactor times their size
	// each: their columns and their message.
	largeBudget = 128 << 20
	largeFactor = 3
	// batchRows is the same in rows: enough to spread the cost of a message.
	batchRows = 16 << 10
	// buffersPerLane: one is filled, one waits, one is being appended.
	buffersPerLane = 3
	// messageOverhead is what the envelope of a message may add to its batch.
	messageOverhead = 4 << 10
)

// errTooLarge says that a batch does not fit into a NATS message.
var errTooLarge = errors.New("batch exceeds the NATS max_payload")

// buffer holds the rows of a lane that are not in the log yet.
type buffer struct {
	rows    batch.Builder
	columns []*native.Column
	view    batch.View
	data    []byte // the encoded message
	origin  origin

	scratches *scratches
}

func (b *buffer) reset() {
	b.rows.Reset()
	b.origin.reset()
	for _, c := range b.columns {
		c.Reset()
	}
}

func (b *buffer) size() int {
	size := b.rows.Rows() * (batch.KeyBytes + batch.TimeBytes + batch.OffsetBytes)
	for _, c := range b.columns {
		size += c.Size()
	}
	return size
}

// envelope is what a batch says besides its rows.
type envelope struct {
	revision  uint64
	topic     string
	id        topicID
	partition int32
	rewinds   uint32
	rewoundTo int64
	arrival   int64 // milliseconds
	byArrival bool  // dedup measures on the time of arrival
	tally     batch.Tally
	behind    bool
	// With a join:
	source   string
	progress batch.Progress
	next     int64 // where the partition stands: a batch without rows covers nothing before it
}

// scratches is the memory that encoding needs for a moment, one for each goroutine that encodes.
type scratches struct{ pool sync.Pool }

// maxScratch is what the columns of a full batch need, before and after compression, with room for a last event that is not small. More, as a
// large event needs, is not kept.
const maxScratch = 4 * batchBytes

func (s *scratches) get() *batch.Scratch {
	if out, ok := s.pool.Get().(*batch.Scratch); ok {
		return out
	}
	return &batch.Scratch{}
}

func (s *scratches) put(scratch *batch.Scratch) {
	if scratch.Size() <= maxScratch {
		s.pool.Put(scratch)
	}
}

// encode makes the message. It fails with errTooLarge when the message exceeds limit.
func (b *buffer) encode(env envelope, limit int) error {
	if env.byArrival {
		b.rows.SetTimes(env.arrival)
	}
	v := &b.view
	*v = batch.View{
		SchemaRevision: env.revision,
		Topic:          []byte(env.topic), TopicID: env.id[:], Partition: env.partition, Rewinds: env.rewinds, RewoundTo: env.rewoundTo,
		ArrivalMS: env.arrival, Tally: env.tally, Behind: env.behind, Source: []byte(env.source), Progress: env.progress,
	}
	if b.rows.Rows() == 0 {
		v.FirstOffset, v.LastOffset = env.next, env.next-1
		b.data = v.Append(b.data[:0])
		return nil
	}
	v.Traceparent, v.OldestMS = b.origin.begin(b.rows.Rows()), b.origin.oldestMS
	scratch := b.scratches.get()
	defer b.scratches.put(scratch)
	b.rows.ViewIn(v, scratch, func(dst []byte) []byte {
		for _, c := range b.columns {
			dst = batch.AppendColumn(dst, c.AppendWire)
		}
		return dst
	})
	b.data = v.Append(b.data[:0])
	if len(b.data) > limit {
		return errTooLarge
	}
	return nil
}

// sealed is a buffer on its way into the log.
type sealed struct {
	buf      *buffer
	position string
	env      envelope
	encoded  bool
	release  func() // gives back the memory that a large event was granted; nil for others
}

// lane appends the sealed buffers of one lane, one after the other.
type lane struct {
	index  int       // in the set
	number int       // in the log
	fill   *buffer   // owned by the partition's loop
	since  time.Time // owned by the partition's loop; when fill got its first row
	free   chan *buffer
	work   chan sealed
}

// appender appends what its partition's loop seals. One goroutine a lane.
type appender struct {
	writer *fencedlog.Writer
	limit  int
	plan   *rows.Plan
	flying sync.WaitGroup // sealed buffers that are not in the log
	fail   context.CancelCauseFunc
	trace  *tracing
	counts *counts

	scratches *scratches
}

func (a *appender) newBuffer() *buffer {
	return &buffer{columns: a.plan.NewColumns(), origin: origin{trace: a.trace}, scratches: a.scratches}
}

func (a *appender) run(ctx context.Context, l *lane) {
	for s := range l.work {
		if ctx.Err() == nil {
			if err := a.append(ctx, l, s); err != nil {
				a.fail(err)
			}
		}
		if s.release == nil {
			s.buf.reset()
			l.free <- s.buf
		} else { // its memory goes, too
			l.free <- a.newBuffer()
			s.release()
		}
		a.flying.Done()
	}
}

func (a *appender) append(ctx context.Context, l *lane, s sealed) error {
	if !s.encoded {
		if err := s.buf.encode(s.env, a.limit); err != nil {
			return err
		}
	}
	// A crash before this: the records are read from Kafka again. After it: the lane's last
	// message tells that they are in.
	ctx, ended := s.buf.origin.append(ctx, l.number, len(s.buf.data))
	sequence, err := a.writer.Append(ctx, l.number, s.position, s.buf.data)
	ended(sequence, err)
	if err == nil {
		a.counts.appended(ctx, len(s.buf.data), s.buf.origin.oldestMS)
	}
	return err
}
