package ingestor

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/IBM/sarama"
	"google.golang.org/protobuf/proto"

	eventv1 "sluice/gen/sluice/event/v1"
	"sluice/libs/deadletters"
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
	// open becomes the writer, and returns the position of the last message.
	open   func(context.Context) (*fencedlog.Writer, string, error)
	count  func(context.Context) (uint64, error) // how many letters of the partition there are
	last   func(context.Context) (string, error) // position of the last message
	watch  *deadletters.Watch                    // since the claim
	limit  int                                   // bytes of a message
	writer *fencedlog.Writer
	batch  eventv1.DeadLetterBatch
	size   int
	upTo   string // position that the batch covers
}

// lettersWriter is the writer's name in the dead-letter log.
func lettersWriter(source string, partition int32) string {
	return "ingest-" + fencedlog.IngestWriter(source, partition)
}

func (l *letters) waiting() int { return len(l.batch.Letters) }

// addLetter takes a letter. It makes room first if it must.
func (p *partition) addLetter(ctx context.Context, letter *eventv1.DeadLetter) error {
	l := p.letters
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
		if err := p.flushLetters(ctx); err != nil {
			return err
		}
	}
	l.batch.Letters = append(l.batch.Letters, letter)
	l.size += size
	l.upTo = token(p.pos.id, letter.GetOffset()+1, p.pos.rewinds)
	if l.waiting() >= lettersPerMessage {
		return p.flushLetters(ctx)
	}
	return nil
}

// flushLetters appends what waits. A crash before it: the records are read and refused again.
func (p *partition) flushLetters(ctx context.Context) error {
	l := p.letters
	if l.waiting() == 0 {
		return nil
	}
	if l.writer == nil {
		dead, err := p.openLetters(ctx)
		if err != nil {
			return err
		}
		if dead < p.pos.lettered {
			return fmt.Errorf("%w: letters up to offset %d were there, the last is of %d: looking again", fencedlog.ErrTailLost, p.pos.lettered-1, dead-1)
		}
		p.pos.dead, p.pos.lettered = max(p.pos.dead, dead), dead
		l.batch.Letters = slices.DeleteFunc(l.batch.Letters, func(d *eventv1.DeadLetter) bool { return d.GetOffset() < p.pos.dead })
		if l.waiting() == 0 {
			l.size = 0
			return nil
		}
	}
	data, err := proto.Marshal(&l.batch)
	if err != nil {
		return err
	}
	if _, err := l.writer.Append(ctx, lettersLane, l.upTo, data); err != nil {
		return err
	}
	p.pos.lettered = max(p.pos.lettered, l.batch.Letters[l.waiting()-1].GetOffset()+1)
	l.batch.Letters, l.size = l.batch.Letters[:0], 0
	return nil
}

// refuse sends a record to the dead letters, unless it is there since before a crash.
func (p *partition) refuse(ctx context.Context, msg *sarama.ConsumerMessage, field, reason string) error {
	p.advance(msg)
	p.pos.tally.DeadLetters++
	if msg.Offset < p.pos.dead {
		return nil
	}
	p.counts.refused(ctx, reason)
	if p.pending == 0 && p.letters.waiting() == 0 {
		p.pendingFrom = time.Now()
	}
	return p.addLetter(ctx, p.letterOf(msg, field, reason))
}

func (p *partition) letterOf(msg *sarama.ConsumerMessage, field, reason string) *eventv1.DeadLetter {
	letter := &eventv1.DeadLetter{
		Topic: msg.Topic, Partition: msg.Partition, Offset: msg.Offset, TimestampMs: msg.Timestamp.UnixMilli(),
		Key: msg.Key, Value: msg.Value, ValueSize: uint64(len(msg.Value)),
		Stage: "ingest", Field: field, Reason: reason, RefusedMs: time.Now().UnixMilli(), SchemaRevision: p.revision,
	}
	for _, h := range msg.Headers {
		letter.Headers = append(letter.Headers, &eventv1.Header{Key: string(h.Key), Value: h.Value})
	}
	return letter
}
