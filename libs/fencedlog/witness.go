package fencedlog

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// A witness is what somebody far behind says in a log of how far it has come: the log keeps the last word of each. It goes back only with the log, whatever
// else goes back. No reader of a lane sees it, and no writer waits for it.

// witnesses are the subjects of a stage's lanes. They have one part more than those of writers, whose purge must not match them.
func (l Log) witnesses(stage string) string { return l.prefix() + "witness." + stage + "." }

func (l Log) witness(stage string, lane int) string { return l.witnesses(stage) + strconv.Itoa(lane) }

// Testify says how far a lane of a stage has come, and does not wait: a log that is full does not take it.
func Testify(nc *nats.Conn, l Log, stage string, lane int, body []byte) error {
	if err := nc.Publish(l.witness(stage, lane), body); err != nil {
		return fmt.Errorf("say in %s how far lane %d of stage %s has come: %w", l.Stream(), lane, stage, err)
	}
	return nil
}

// Hear calls heard for each word of a stage from now on, until the subscription ends. Some may be missed; the last ones are in the log.
func Hear(nc *nats.Conn, l Log, stage string, heard func(lane int, body []byte)) (*nats.Subscription, error) {
	prefix := l.witnesses(stage)
	sub, err := nc.Subscribe(prefix+"*", func(m *nats.Msg) {
		if lane, err := strconv.Atoi(strings.TrimPrefix(m.Subject, prefix)); err == nil {
			heard(lane, m.Data)
		}
	})
	if err != nil {
		return nil, fmt.Errorf("hear in %s how far stage %s has come: %w", l.Stream(), stage, err)
	}
	return sub, nil
}

// Testimony is what a lane of a stage has said last; nil if that is nothing.
func Testimony(ctx context.Context, js jetstream.JetStream, l Log, stage string, lane int) ([]byte, error) {
	stream, err := js.Stream(ctx, l.Stream())
	if err != nil {
		return nil, fmt.Errorf("look at %s: %w", l.Stream(), err)
	}
	msg, err := stream.GetLastMsgForSubject(ctx, l.witness(stage, lane))
	if errors.Is(err, jetstream.ErrMsgNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read in %s how far lane %d of stage %s has come: %w", l.Stream(), lane, stage, err)
	}
	return msg.Data, nil
}

// carry brings the last words that lie before sequence to the end of the log, and returns what may be purged: all before sequence, or, if there is nothing
// else behind the first of them, all before that. Whoever says something meanwhile is not contradicted.
func carry(ctx context.Context, js jetstream.JetStream, stream jetstream.Stream, l Log, sequence uint64) (uint64, error) {
	info, err := stream.Info(ctx, jetstream.WithSubjectFilter(l.witnesses("*")+"*"))
	if err != nil {
		return 0, err
	}
	words, err := lastOfEach(ctx, stream, info)
	if err != nil {
		return 0, err
	}
	var before []*jetstream.RawStreamMsg
	first := sequence
	for _, msg := range words {
		if msg.Sequence < sequence {
			before, first = append(before, msg), min(first, msg.Sequence)
		}
	}
	if len(before) == 0 {
		return sequence, nil
	}
	// Is there anything else to purge? Or a log that is idle would never come to rest.
	msg, err := stream.GetMsg(ctx, first, jetstream.WithGetMsgSubject(l.prefix()+"*.*"))
	if errors.Is(err, jetstream.ErrMsgNotFound) || err == nil && msg.Sequence >= sequence {
		return first, nil
	}
	if err != nil {
		return 0, err
	}
	for _, msg := range before {
		_, err := js.Publish(ctx, msg.Subject, msg.Data, jetstream.WithExpectLastSequencePerSubject(msg.Sequence))
		var api *jetstream.APIError
		if err != nil && !errors.As(err, &api) { // or it has said something since, or the log is full, which the purge ends
			return 0, err
		}
	}
	return sequence, nil
}
