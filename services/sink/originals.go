package sink

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/IBM/sarama"

	controlv1 "sluice/gen/sluice/control/v1"
	eventv1 "sluice/gen/sluice/event/v1"
	"sluice/libs/clickhouse"
	"sluice/libs/kafka"
	"sluice/services/sink/internal/block"
)

// originals fetches refused events back from Kafka. It connects when the first is needed.
type originals struct {
	source  *controlv1.KafkaSource
	client  string
	waiting func(error)
	cluster *kafka.Cluster
}

// fetchTimeout bounds one attempt to fetch a record.
const fetchTimeout = 15 * time.Second

func (o *originals) close() error {
	if o.cluster != nil {
		o.cluster.Close()
		o.cluster = nil
	}
	return nil
}

// fill puts the event's record into the letter. Of a record that Kafka no longer has, the row is what is left.
// While Kafka is away it waits: an hour of lag is worth less than an event.
func (o *originals) fill(ctx context.Context, letter *eventv1.DeadLetter, topicID []byte, r refusal, l *layout, room int) error {
	waited := false
	for backoff := firstBackoff; ; backoff = min(2*backoff, lastBackoff) {
		record, err := o.fetch(ctx, letter, topicID)
		switch {
		case err == nil:
			letter.Key, letter.Value, letter.TimestampMs = record.Key, record.Value, record.Timestamp.UnixMilli()
			for _, h := range record.Headers {
				letter.Headers = append(letter.Headers, &eventv1.Header{Key: clean(string(h.Key)), Value: h.Value})
			}
		case gone(err):
			letter.Reason += "; the record is no longer in Kafka: the value is the row made of it"
			if letter.Value, err = renderRow(r, l); err != nil {
				letter.Reason += fmt.Sprintf(", which cannot be shown (%v)", err)
			}
		case ctx.Err() != nil:
			return context.Cause(ctx)
		default:
			waited = true
			o.waiting(fmt.Errorf("fetch a refused event: %w", err))
			_ = o.close()
			if err := sleep(ctx, backoff); err != nil {
				return err
			}
			continue
		}
		if waited {
			o.waiting(nil)
		}
		letter.Reason = clean(letter.Reason)
		cut(letter, room)
		return nil
	}
}

func (o *originals) fetch(ctx context.Context, letter *eventv1.DeadLetter, topicID []byte) (*sarama.ConsumerMessage, error) {
	ctx, cancel := context.WithTimeout(ctx, fetchTimeout)
	defer cancel()
	if o.cluster == nil {
		cluster, err := kafka.Open(ctx, o.source, o.client)
		if err != nil {
			return nil, err
		}
		o.cluster = cluster
	}
	topic, err := o.cluster.Topic(ctx, letter.GetTopic())
	if err != nil {
		return nil, err
	}
	if len(topicID) > 0 && !bytes.Equal(topic.ID[:], topicID) {
		return nil, fmt.Errorf("topic %s was made anew: %w", letter.GetTopic(), kafka.ErrGone)
	}
	return o.cluster.Record(ctx, letter.GetTopic(), letter.GetPartition(), letter.GetOffset())
}

// gone tells that no waiting brings the record back.
func gone(err error) bool {
	return errors.Is(err, kafka.ErrGone) || errors.Is(err, kafka.ErrBeyondEnd) || errors.Is(err, kafka.ErrNoTopic)
}

// cut makes the letter fit a message.
func cut(letter *eventv1.DeadLetter, room int) {
	letter.ValueSize = uint64(len(letter.GetValue()))
	if room -= 4 << 10; len(letter.Value)+len(letter.Key) <= room {
		return
	}
	letter.Key = letter.Key[:min(len(letter.Key), room/2)]
	if keep := room - len(letter.Key); len(letter.Value) > keep {
		letter.Value, letter.ValueTruncated = letter.Value[:keep], true
	}
	letter.Headers = nil
}

// renderRow shows a row as JSON.
func renderRow(r refusal, l *layout) ([]byte, error) {
	columns, err := r.group.slice(l, block.Range{From: r.row, To: r.row + 1})
	if err != nil {
		return nil, err
	}
	return clickhouse.RenderRow(columns)
}
