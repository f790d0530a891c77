package control

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	controlv1 "sluice/gen/sluice/control/v1"
	eventv1 "sluice/gen/sluice/event/v1"
	"sluice/libs/fencedlog"
)

// readTimeout bounds the reading of one message of the dead-letter stream.
const readTimeout = 5 * time.Second

// ListDeadLetters sends the dead letters from the oldest to the newest that is there at the call.
func (s *Service) ListDeadLetters(req *controlv1.ListDeadLettersRequest, stream grpc.ServerStreamingServer[controlv1.ListDeadLettersResponse]) error {
	ctx := stream.Context()
	if _, _, err := s.get(ctx, req.GetId()); err != nil {
		return err
	}
	log := fencedlog.Log{Pipeline: req.GetId(), Stage: fencedlog.DeadLetters}
	letters, err := s.js.Stream(ctx, log.Stream())
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		return nil // not made yet: there are none
	}
	if err != nil {
		return stored(ctx, fmt.Errorf("dead letters of pipeline %q: %w", req.GetId(), err))
	}
	state := letters.CachedInfo().State
	var sent uint64
	for at := state.FirstSeq; at <= state.LastSeq; {
		msg, err := nextMessage(ctx, letters, log, at)
		if errors.Is(err, jetstream.ErrMsgNotFound) {
			return nil
		}
		if err != nil {
			return stored(ctx, fmt.Errorf("dead letters of pipeline %q: read sequence %d: %w", req.GetId(), at, err))
		}
		at = msg.Sequence + 1
		if msg.Sequence > state.LastSeq {
			return nil
		}
		if fence(log, msg.Subject) {
			continue
		}
		batch := &eventv1.DeadLetterBatch{}
		if err := proto.Unmarshal(msg.Data, batch); err != nil {
			return fmt.Errorf("dead letters of pipeline %q: sequence %d: %w", req.GetId(), msg.Sequence, err)
		}
		for _, l := range batch.GetLetters() {
			if err := stream.Send(letter(l, msg.Sequence)); err != nil {
				return err
			}
			if sent++; sent == req.GetLimit() {
				return nil
			}
		}
	}
	return nil
}

// nextMessage reads the first message at or after a sequence; each read is a request of its own, so
// that nothing is left to clean up when NATS or the client goes away.
func nextMessage(ctx context.Context, stream jetstream.Stream, log fencedlog.Log, at uint64) (*jetstream.RawStreamMsg, error) {
	return nextOf(ctx, stream, log.AllFilter(), at)
}

// fence tells a writer's fence from its messages.
func fence(log fencedlog.Log, subject string) bool {
	return strings.HasPrefix(strings.TrimPrefix(subject, strings.TrimSuffix(log.AllFilter(), ">")), "fence.")
}

func letter(l *eventv1.DeadLetter, sequence uint64) *controlv1.ListDeadLettersResponse {
	return &controlv1.ListDeadLettersResponse{
		Stage: l.GetStage(), Topic: l.GetTopic(), Partition: l.GetPartition(), Offset: l.GetOffset(),
		Timestamp: timestamppb.New(time.UnixMilli(l.GetTimestampMs())),
		Refused:   timestamppb.New(time.UnixMilli(l.GetRefusedMs())),
		Field:     l.GetField(), Reason: l.GetReason(), Key: l.GetKey(),
		Value: l.GetValue(), ValueTruncated: l.GetValueTruncated(), Sequence: sequence,
	}
}
