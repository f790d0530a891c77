package fencedlog

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/nats-io/nats.go/jetstream"
)

// What can be asked of a log without becoming a writer.

// Bounds returns the sequences of the first and the last message in the log; first is last+1 when it is empty.
func Bounds(ctx context.Context, js jetstream.JetStream, l Log) (first, last uint64, err error) {
	stream, err := js.Stream(ctx, l.Stream())
	if err != nil {
		return 0, 0, fmt.Errorf("look at %s: %w", l.Stream(), err)
	}
	state := stream.CachedInfo().State
	if state.Msgs == 0 {
		return state.LastSeq + 1, state.LastSeq, nil
	}
	return state.FirstSeq, state.LastSeq, nil
}

// Holds tells whether the log still holds that very message.
func Holds(ctx context.Context, js jetstream.JetStream, l Log, m Mark) (bool, error) {
	stream, err := js.Stream(ctx, l.Stream())
	if err != nil {
		return false, fmt.Errorf("look at %s: %w", l.Stream(), err)
	}
	msg, err := stream.GetMsg(ctx, m.Sequence)
	if errors.Is(err, jetstream.ErrMsgNotFound) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("read sequence %d of %s: %w", m.Sequence, l.Stream(), err)
	}
	return msg.Time.Equal(m.Time), nil
}

// At returns the message at a sequence as a reader would; ok is false when there is none, or none of a lane.
func At(ctx context.Context, js jetstream.JetStream, l Log, sequence uint64) (m Message, ok bool, err error) {
	stream, err := js.Stream(ctx, l.Stream())
	if err != nil {
		return Message{}, false, fmt.Errorf("look at %s: %w", l.Stream(), err)
	}
	msg, err := stream.GetMsg(ctx, sequence)
	if errors.Is(err, jetstream.ErrMsgNotFound) {
		return Message{}, false, nil
	}
	if err != nil {
		return Message{}, false, fmt.Errorf("read sequence %d of %s: %w", sequence, l.Stream(), err)
	}
	writer, ok := l.writerOf(msg.Subject)
	return Message{
		Sequence: msg.Sequence, Time: msg.Time, Writer: writer, Position: msg.Header.Get(positionHeader), Link: linkOf(msg.Header), Data: msg.Data,
	}, ok, nil
}

// LastOf returns the sequence of the last message of a lane, 0 when there is none.
func LastOf(ctx context.Context, js jetstream.JetStream, l Log, lane int) (uint64, error) {
	stream, err := js.Stream(ctx, l.Stream())
	if err != nil {
		return 0, fmt.Errorf("look at lane %d of %s: %w", lane, l.Stream(), err)
	}
	msg, err := stream.GetLastMsgForSubject(ctx, l.LaneFilter(lane))
	if errors.Is(err, jetstream.ErrMsgNotFound) {
		return 0, nil
	}
	if err != nil {
		return 0, fmt.Errorf("look at lane %d of %s: %w", lane, l.Stream(), err)
	}
	return msg.Sequence, nil
}

// Settled returns the body of a writer's last fence, nil when it has none.
func Settled(ctx context.Context, js jetstream.JetStream, l Log, writer string) ([]byte, error) {
	stream, err := js.Stream(ctx, l.Stream())
	if err != nil {
		return nil, fmt.Errorf("look at %s: %w", l.Stream(), err)
	}
	msg, err := stream.GetLastMsgForSubject(ctx, l.fence(writer))
	if errors.Is(err, jetstream.ErrMsgNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read the fence of %s in %s: %w", writer, l.Stream(), err)
	}
	return msg.Data, nil
}

// Fences returns the bodies of all writers' last fences.
func Fences(ctx context.Context, js jetstream.JetStream, l Log) (map[string][]byte, error) {
	stream, err := js.Stream(ctx, l.Stream())
	if err != nil {
		return nil, fmt.Errorf("look at %s: %w", l.Stream(), err)
	}
	info, err := stream.Info(ctx, jetstream.WithSubjectFilter(l.fenceFilter()))
	if err != nil {
		return nil, fmt.Errorf("list the fences of %s: %w", l.Stream(), err)
	}
	out := make(map[string][]byte, len(info.State.Subjects))
	for subject := range info.State.Subjects {
		msg, err := stream.GetLastMsgForSubject(ctx, subject)
		if err != nil { // also one that was replaced this moment
			return nil, fmt.Errorf("read %s: %w", subject, err)
		}
		out[strings.TrimPrefix(subject, l.fence(""))] = msg.Data
	}
	return out, nil
}
