package deadletters

import (
	"context"
	"errors"
	"fmt"

	"github.com/nats-io/nats.go/jetstream"
	"google.golang.org/protobuf/proto"

	eventv1 "sluice/gen/sluice/event/v1"
	"sluice/libs/fencedlog"
)

// Count reads all letters of a writer that the dead-letter log of a pipeline holds, and tells how many there are. Asked only when some are missing.
func Count(ctx context.Context, js jetstream.JetStream, pipeline, writer string, lane int) (uint64, error) {
	log := fencedlog.Log{Pipeline: pipeline, Stage: fencedlog.DeadLetters}
	count, err := count(ctx, js, log.Stream(), log.Subject(lane, writer))
	if err != nil {
		return 0, fmt.Errorf("count the dead letters of %s in %s: %w", writer, log.Stream(), err)
	}
	return count, nil
}

func count(ctx context.Context, js jetstream.JetStream, name, subject string) (letters uint64, err error) {
	stream, err := js.Stream(ctx, name)
	if err != nil {
		return 0, err
	}
	for at := uint64(1); ; {
		msg, err := stream.GetMsg(ctx, at, jetstream.WithGetMsgSubject(subject))
		if errors.Is(err, jetstream.ErrMsgNotFound) {
			return letters, nil
		}
		if err != nil {
			return 0, err
		}
		var b eventv1.DeadLetterBatch
		if err := proto.Unmarshal(msg.Data, &b); err != nil {
			return 0, fmt.Errorf("sequence %d: %w", msg.Sequence, err)
		}
		letters += uint64(len(b.GetLetters()))
		at = msg.Sequence + 1
	}
}
