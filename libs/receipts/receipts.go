// Package receipts keeps for a while what became of the blocks of a pipeline: one small message for each, in a stream of its
// own; with a join, also what became of the batches before it, and which records its rows were made from. The logs are purged within seconds; a receipt still tells in which block an event went, when, and in which trace.
//
// Guaranteed: bounded in bytes and in time; a receipt costs its writer one publish that waits for nothing.
//
// Not guaranteed: that there is one. Nothing is repeated. Beside the answer to a user's question, what a sink finds out about its past may depend on it.
package receipts

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"google.golang.org/protobuf/proto"

	eventv1 "sluice/gen/sluice/event/v1"
)

const (
	// MaxAge and maxBytes bound what is kept.
	MaxAge   = 24 * time.Hour
	maxBytes = 32 << 20
	// maxPart is the size of a message from which on the next batch goes into another.
	maxPart = 256 << 10
	// idle is how long Each waits for the next message of those that are there.
	idle = 5 * time.Second
)

// Stream is the name of a pipeline's stream.
func Stream(pipeline string) string { return "sluice_" + pipeline + "_receipts" }

func subject(pipeline string, lane int) string {
	return "sluice." + pipeline + ".receipts." + strconv.Itoa(lane)
}

// Ensure makes the stream if it is not there.
func Ensure(ctx context.Context, js jetstream.JetStream, pipeline string) error {
	_, err := js.CreateOrUpdateStream(ctx, jetstream.StreamConfig{
		Name: Stream(pipeline), Description: "what became of the blocks of pipeline " + pipeline,
		Subjects: []string{"sluice." + pipeline + ".receipts.*"}, Storage: jetstream.FileStorage,
		Retention: jetstream.LimitsPolicy, Discard: jetstream.DiscardOld, MaxBytes: maxBytes, MaxAge: MaxAge,
	})
	if err != nil {
		return fmt.Errorf("make stream %s: %w", Stream(pipeline), err)
	}
	return nil
}

// Remove removes the stream. It is no error when there is none.
func Remove(ctx context.Context, js jetstream.JetStream, pipeline string) error {
	if err := js.DeleteStream(ctx, Stream(pipeline)); err != nil && !errors.Is(err, jetstream.ErrStreamNotFound) {
		return fmt.Errorf("remove stream %s: %w", Stream(pipeline), err)
	}
	return nil
}

// Publish hands a receipt to the connection and does not wait. One that is large goes in parts, each with some of the batches.
func Publish(nc *nats.Conn, pipeline string, r *eventv1.Receipt) error {
	size, from := 0, 0
	for i, b := range r.GetBatches() {
		n := proto.Size(b)
		if size += n; size > maxPart && i > from {
			if err := publish(nc, pipeline, part(r, from, i)); err != nil {
				return err
			}
			size, from = n, i
		}
	}
	return publish(nc, pipeline, part(r, from, len(r.GetBatches())))
}

// part is a receipt with some of its batches.
func part(r *eventv1.Receipt, from, to int) *eventv1.Receipt {
	if from == 0 && to == len(r.GetBatches()) {
		return r
	}
	return &eventv1.Receipt{
		Lane: r.GetLane(), FirstSequence: r.GetFirstSequence(), LastSequence: r.GetLastSequence(), Rows: r.GetRows(), Refused: r.GetRefused(),
		BeganMs: r.GetBeganMs(), DoneMs: r.GetDoneMs(), Token: r.GetToken(), TraceId: r.GetTraceId(), Stage: r.GetStage(), Batches: r.GetBatches()[from:to],
		Epoch: r.GetEpoch(), LastTimeNs: r.GetLastTimeNs(),
	}
}

func publish(nc *nats.Conn, pipeline string, r *eventv1.Receipt) error {
	data, err := proto.Marshal(r)
	if err != nil {
		return fmt.Errorf("encode a receipt: %w", err)
	}
	if err := nc.Publish(subject(pipeline, int(r.GetLane())), data); err != nil {
		return fmt.Errorf("publish a receipt: %w", err)
	}
	return nil
}

// Each calls take for the receipts of a lane (-1: of all) from the oldest on, with how many follow, until it returns false or all that were
// there are seen. Without a stream there are none.
func Each(ctx context.Context, js jetstream.JetStream, pipeline string, lane int, take func(r *eventv1.Receipt, more uint64) bool) error {
	filter := "sluice." + pipeline + ".receipts.*"
	if lane >= 0 {
		filter = subject(pipeline, lane)
	}
	consumer, err := js.OrderedConsumer(ctx, Stream(pipeline), jetstream.OrderedConsumerConfig{FilterSubjects: []string{filter}})
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("read %s: %w", Stream(pipeline), err)
	}
	info, err := consumer.Info(ctx)
	if err != nil {
		return fmt.Errorf("read %s: %w", Stream(pipeline), err)
	}
	if info.NumPending == 0 {
		return nil
	}
	messages, err := consumer.Messages()
	if err != nil {
		return fmt.Errorf("read %s: %w", Stream(pipeline), err)
	}
	defer messages.Stop()
	for {
		next, cancel := context.WithTimeout(ctx, idle)
		msg, err := messages.Next(jetstream.NextContext(next))
		cancel()
		if err != nil {
			return fmt.Errorf("read %s: %w", Stream(pipeline), err)
		}
		var r eventv1.Receipt
		if err := proto.Unmarshal(msg.Data(), &r); err != nil {
			return fmt.Errorf("read %s: %w", Stream(pipeline), err)
		}
		meta, err := msg.Metadata()
		if err != nil {
			return fmt.Errorf("read %s: %w", Stream(pipeline), err)
		}
		if !take(&r, meta.NumPending) || meta.NumPending == 0 {
			return nil
		}
	}
}

// Last returns the last receipt of a block of the sink of a lane that had rows; an empty one when there is none.
func Last(ctx context.Context, js jetstream.JetStream, pipeline string, lane int) (*eventv1.Receipt, error) {
	stream, err := js.Stream(ctx, Stream(pipeline))
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		return nil, nil //nolint:nilnil // an empty message
	}
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", Stream(pipeline), err)
	}
	msg, err := stream.GetLastMsgForSubject(ctx, subject(pipeline, lane))
	if errors.Is(err, jetstream.ErrMsgNotFound) {
		return nil, nil //nolint:nilnil // an empty message
	}
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", Stream(pipeline), err)
	}
	last := &eventv1.Receipt{}
	if err := proto.Unmarshal(msg.Data, last); err != nil {
		return nil, fmt.Errorf("read %s: sequence %d: %w", Stream(pipeline), msg.Sequence, err)
	}
	if last.GetToken() != "" {
		return last, nil
	}
	// A stage before the sink has said something since, or a block without rows came.
	var found *eventv1.Receipt
	err = Each(ctx, js, pipeline, lane, func(r *eventv1.Receipt, _ uint64) bool {
		if r.GetToken() != "" {
			found = r
		}
		return true
	})
	return found, err
}
