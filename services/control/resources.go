package control

import (
	"context"
	"errors"
	"fmt"

	"github.com/nats-io/nats.go/jetstream"
	"google.golang.org/grpc/codes"

	controlv1 "sluice/gen/sluice/control/v1"
	"sluice/libs/checkpoint"
	"sluice/libs/fencedlog"
	"sluice/libs/receipts"
	"sluice/libs/spec"
)

// logStages are the logs that a pipeline may ever have had; Remove does not mind those it never had.
var logStages = []string{fencedlog.Ingest, fencedlog.Dedup, fencedlog.Join, fencedlog.DeadLetters}

// logsOf are the logs that a pipeline needs.
func logsOf(p *controlv1.Pipeline) []string {
	stages := spec.Stages(p) // the sink has no log
	return append(stages[:len(stages)-1:len(stages)-1], fencedlog.DeadLetters)
}

// logBytes bounds the log of a stage; Kafka holds what does not fit. It is some seconds at full speed,
// more than lies between two checkpoints. smallLogBytes is for servers that have not that much to give.
const (
	logBytes      = 2 << 30
	smallLogBytes = 256 << 20
)

// storageExceeded is what a server answers that cannot promise the bytes of a stream.
const storageExceeded jetstream.ErrorCode = 10047

// ensure makes the streams and the bucket of a pipeline that are missing. Nothing is lost by calling
// it at any time: what is there stays.
func (s *Service) ensure(ctx context.Context, p *controlv1.Pipeline) error {
	for _, stage := range logsOf(p) {
		log := fencedlog.Log{Pipeline: p.GetId(), Stage: stage}
		limits := fencedlog.Limits{MaxBytes: logBytes}
		if stage == fencedlog.DeadLetters {
			limits.MaxBytes = 0 // kept until somebody looks; a full one would stop the pipeline
		}
		err := fencedlog.Ensure(ctx, s.js, log, limits)
		var api *jetstream.APIError
		if errors.As(err, &api) && api.ErrorCode == storageExceeded {
			err = fencedlog.Ensure(ctx, s.js, log, fencedlog.Limits{MaxBytes: smallLogBytes})
		}
		if errors.As(err, &api) && api.ErrorCode == storageExceeded {
			return codef(codes.ResourceExhausted, "NATS cannot promise the %d MiB of storage that a log needs at least: give JetStream more "+
				"(jetstream.max_file_store, or a larger disk), or delete a pipeline: %w", smallLogBytes>>20, err)
		}
		if err != nil {
			return err
		}
	}
	if err := receipts.Ensure(ctx, s.js, p.GetId()); err != nil {
		s.log.Debug("no receipts of blocks are kept", "pipeline", p.GetId(), "error", err) // nothing depends on them
	}
	_, err := s.js.CreateKeyValue(ctx, jetstream.KeyValueConfig{
		Bucket:      checkpoint.Bucket(p.GetId()),
		Description: "checkpoints and positions of pipeline " + p.GetId(),
		Storage:     jetstream.FileStorage,
		History:     1,
	})
	if err != nil && !errors.Is(err, jetstream.ErrBucketExists) {
		return fmt.Errorf("make bucket %s: %w", checkpoint.Bucket(p.GetId()), err)
	}
	return nil
}

// remove removes the streams and the bucket of a pipeline and what its units have reported. It is no
// error when they are gone already.
func (s *Service) remove(ctx context.Context, id string) error {
	for _, stage := range logStages {
		if err := fencedlog.Remove(ctx, s.js, fencedlog.Log{Pipeline: id, Stage: stage}); err != nil {
			return err
		}
	}
	if err := receipts.Remove(ctx, s.js, id); err != nil {
		return err
	}
	err := s.js.DeleteKeyValue(ctx, checkpoint.Bucket(id))
	if err != nil && !errors.Is(err, jetstream.ErrBucketNotFound) && !errors.Is(err, jetstream.ErrStreamNotFound) {
		return fmt.Errorf("remove bucket %s: %w", checkpoint.Bucket(id), err)
	}
	return s.registry.DeleteStatuses(ctx, id)
}
