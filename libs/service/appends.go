package service

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
)

// measured is a JetStream whose appends are counted: every message of a log goes through PublishMsg.
type measured struct {
	jetstream.JetStream
	seconds  metric.Float64Histogram
	failures metric.Int64Counter
}

func measure(js jetstream.JetStream, m metric.Meter) (jetstream.JetStream, error) {
	out := &measured{JetStream: js}
	var err error
	if out.seconds, err = m.Float64Histogram("sluice.nats.append.duration", metric.WithUnit("s"),
		metric.WithDescription("Time until JetStream has acknowledged a message of a log."),
		metric.WithExplicitBucketBoundaries(.0005, .001, .002, .005, .01, .02, .05, .1, .2, .5, 1, 2, 5)); err != nil {
		return nil, fmt.Errorf("make the metrics: %w", err)
	}
	if out.failures, err = m.Int64Counter("sluice.nats.append.failures", metric.WithUnit("{message}"),
		metric.WithDescription("Appends that failed and are tried again, by what the error means.")); err != nil {
		return nil, fmt.Errorf("make the metrics: %w", err)
	}
	for _, class := range appendClasses {
		out.failures.Add(context.Background(), 0, metric.WithAttributes(attribute.String("class", class)))
	}
	return out, nil
}

// appendClasses are what appendClass says. They are there from the start, so that the first failure is an increase.
var appendClasses = [...]string{"fenced", "too_large", "full_or_busy", "refused", "timeout", "cancelled", "no_stream", "disconnected", "other"}

func (m *measured) PublishMsg(ctx context.Context, msg *nats.Msg, opts ...jetstream.PublishOpt) (*jetstream.PubAck, error) {
	began := time.Now()
	ack, err := m.JetStream.PublishMsg(ctx, msg, opts...)
	if err != nil {
		m.failures.Add(ctx, 1, metric.WithAttributes(attribute.String("class", appendClass(err))))
		return ack, err
	}
	m.seconds.Record(ctx, time.Since(began).Seconds())
	return ack, nil
}

// codeWrongSequenceConstant is another code of the server for a wrong last sequence, which the client has no name for.
const codeWrongSequenceConstant jetstream.ErrorCode = 10164

// appendClass says what an append's error means, in a few words.
func appendClass(err error) string {
	var api *jetstream.APIError
	switch {
	case errors.As(err, &api):
		switch {
		case api.ErrorCode == jetstream.JSErrCodeStreamWrongLastSequence, api.ErrorCode == codeWrongSequenceConstant:
			return "fenced"
		case api.ErrorCode == jetstream.JSErrCodeStreamMessageExceedsMaximum:
			return "too_large"
		case api.Code == 503:
			return "full_or_busy"
		}
		return "refused"
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, nats.ErrTimeout):
		return "timeout"
	case errors.Is(err, context.Canceled):
		return "cancelled"
	case errors.Is(err, nats.ErrNoResponders), errors.Is(err, jetstream.ErrNoStreamResponse):
		return "no_stream"
	case errors.Is(err, nats.ErrConnectionClosed), errors.Is(err, nats.ErrConnectionReconnecting),
		errors.Is(err, nats.ErrDisconnected), errors.Is(err, nats.ErrReconnectBufExceeded):
		return "disconnected"
	}
	return "other"
}
