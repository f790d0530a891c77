package ingestor

import (
	"context"
	"strconv"
	"time"

	"github.com/IBM/sarama"
	"google.golang.org/protobuf/proto"

	eventv1 "sluice/gen/sluice/event/v1"
	"sluice/libs/fencedlog"
)

const (
	// A message of the dead-letter log holds at most so many letters and about so many bytes.
	lettersPerMessage = 256
	lettersBytes      = 256 << 10
	// lettersLane is the only lane of the dead-letter log.
	lettersLane = 0
)

// letters collects the dead letters of one partition and appends them to the dead-letter log.
type letters struct {
	open   func(context.Context) (*fencedlog.Writer, error)
	limit  int // bytes of a message
	writer *fencedlog.Writer
	batch  eventv1.DeadLetterBatch
	size   int
	upTo   string // position that the batch covers
}

// lettersWriter is the writer's name in the dead-letter log.
func lettersWriter(partition int32) string { return "ingest-" + strconv.Itoa(int(partition)) }

func (l *letters) waiting() int { return len(l.batch.Letters) }

// add takes a letter whose record ends at position. It makes room first if it must.
func (l *letters) add(ctx context.Context, letter *eventv1.DeadLetter, position string) error {
	// Whatever its size, the letter must fit into a message of its own.
	if room := l.limit - 16<<10; len(letter.GetValue()) > room {
		letter.Value = letter.GetValue()[:max(room, 0)]
		letter.ValueTruncated = true
	}
	if room := l.limit - 16<<10 - len(letter.GetValue()); len(letter.GetKey()) > max(room, 0) {
		letter.Key = nil
	}
	size := proto.Size(letter) + 8
	if size > l.limit {
		letter.Headers = nil
		size = proto.Size(letter) + 8
	}
	if l.waiting() > 0 && l.size+size > min(lettersBytes, l.limit) {
		if err := l.flush(ctx); err != nil {
			return err
		}
	}
	l.batch.Letters = append(l.batch.Letters, letter)
	l.size += size
	l.upTo = position
	if l.waiting() >= lettersPerMessage {
		return l.flush(ctx)
	}
	return nil
}

// flush appends what waits. A crash before it: the records are read and refused again.
func (l *letters) flush(ctx context.Context) error {
	if l.waiting() == 0 {
		return nil
	}
	if l.writer == nil {
		var err error
		if l.writer, err = l.open(ctx); err != nil {
			return err
		}
	}
	data, err := proto.Marshal(&l.batch)
	if err != nil {
		return err
	}
	if _, err := l.writer.Append(ctx, lettersLane, l.upTo, data); err != nil {
		return err
	}
	l.batch.Letters, l.size = l.batch.Letters[:0], 0
	return nil
}

// refuse sends a record to the dead letters, unless it is there since before a crash.
func (p *partition) refuse(ctx context.Context, msg *sarama.ConsumerMessage, field, reason string) error {
	p.pos.tally.DeadLetters++
	if msg.Offset < p.pos.dead {
		return nil
	}
	letter := &eventv1.DeadLetter{
		Topic: msg.Topic, Partition: msg.Partition, Offset: msg.Offset, TimestampMs: msg.Timestamp.UnixMilli(),
		Key: msg.Key, Value: msg.Value, ValueSize: uint64(len(msg.Value)),
		Stage: "ingest", Field: field, Reason: reason, RefusedMs: time.Now().UnixMilli(), SchemaRevision: p.revision,
	}
	for _, h := range msg.Headers {
		letter.Headers = append(letter.Headers, &eventv1.Header{Key: string(h.Key), Value: h.Value})
	}
	if p.pending == 0 && p.letters.waiting() == 0 {
		p.pendingFrom = time.Now()
	}
	return p.letters.add(ctx, letter, token(p.pos.id, p.pos.next))
}
