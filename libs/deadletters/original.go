package deadletters

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"time"

	eventv1 "sluice/gen/sluice/event/v1"
	"sluice/libs/kafka"
)

const (
	// fetchTimeout bounds one attempt to fetch a record.
	fetchTimeout = 15 * time.Second
	firstBackoff = 100 * time.Millisecond
	lastBackoff  = 5 * time.Second
)

// originals fetches refused events back from Kafka. It connects to a source when the first of its events is needed.
type originals struct {
	options  *Options
	clusters map[string]*kafka.Cluster // by source
}

func (o *originals) close() {
	for source := range o.clusters {
		o.disconnect(source)
	}
}

func (o *originals) disconnect(source string) {
	if cluster := o.clusters[source]; cluster != nil {
		cluster.Close()
		delete(o.clusters, source)
	}
}

// fill puts the event's record into the letter. Of a record that Kafka no longer has, the row is what is left.
// While Kafka is away it waits.
func (o *originals) fill(ctx context.Context, letter *eventv1.DeadLetter, r Refusal) error {
	waited := false
	for backoff := firstBackoff; ; backoff = min(2*backoff, lastBackoff) {
		err := o.fetch(ctx, letter, r)
		switch {
		case err == nil:
		case gone(err):
			letter.Reason += "; the record is no longer in Kafka"
			withRow(letter, r)
		case ctx.Err() != nil:
			return context.Cause(ctx)
		default:
			waited = true
			o.options.Wait(fmt.Errorf("fetch a refused event: %w", err))
			o.disconnect(r.Source)
			if err := sleep(ctx, backoff); err != nil {
				return err
			}
			continue
		}
		if waited {
			o.options.Wait(nil)
		}
		return nil
	}
}

func (o *originals) fetch(ctx context.Context, letter *eventv1.DeadLetter, r Refusal) error {
	ctx, cancel := context.WithTimeout(ctx, fetchTimeout)
	defer cancel()
	cluster, err := o.cluster(ctx, r.Source)
	if err != nil {
		return err
	}
	topic, err := cluster.Topic(ctx, r.Topic)
	if err != nil {
		return err
	}
	if r.TopicID != [16]byte{} && !bytes.Equal(topic.ID[:], r.TopicID[:]) {
		return fmt.Errorf("topic %s was made anew: %w", r.Topic, kafka.ErrGone)
	}
	record, err := cluster.Record(ctx, r.Topic, r.Partition, r.Offset)
	if err != nil {
		return err
	}
	letter.Key, letter.Value, letter.TimestampMs = record.Key, record.Value, record.Timestamp.UnixMilli()
	for _, h := range record.Headers {
		letter.Headers = append(letter.Headers, &eventv1.Header{Key: clean(string(h.Key)), Value: h.Value})
	}
	return nil
}

func (o *originals) cluster(ctx context.Context, source string) (*kafka.Cluster, error) {
	if cluster := o.clusters[source]; cluster != nil {
		return cluster, nil
	}
	at := o.options.Sources[source]
	if at == nil {
		return nil, fmt.Errorf("the pipeline has no source %q any more: %w", source, kafka.ErrGone)
	}
	cluster, err := kafka.Open(ctx, at, o.options.ClientID)
	if err != nil {
		return nil, err
	}
	if o.clusters == nil {
		o.clusters = map[string]*kafka.Cluster{}
	}
	o.clusters[source] = cluster
	return cluster, nil
}

// gone tells that no waiting brings the record back.
func gone(err error) bool {
	return errors.Is(err, kafka.ErrGone) || errors.Is(err, kafka.ErrBeyondEnd) || errors.Is(err, kafka.ErrNoTopic)
}

// withRow shows the row in the place of its record.
func withRow(letter *eventv1.DeadLetter, r Refusal) {
	if r.Row == nil {
		return
	}
	row, err := r.Row()
	if err != nil {
		letter.Reason += clean(fmt.Sprintf(", and the row made of it cannot be shown (%v)", err))
		return
	}
	letter.Reason += ": the value is the row made of it"
	letter.Value = row
}

func sleep(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-timer.C:
		return nil
	}
}
