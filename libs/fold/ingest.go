package fold

import (
	"context"
	"fmt"

	"github.com/nats-io/nats.go/jetstream"
	"google.golang.org/protobuf/proto"

	eventv1 "sluice/gen/sluice/event/v1"
	"sluice/libs/fencedlog"
)

// IngestPositions are what the writers of a pipeline's ingest log have settled last, by writer.
func IngestPositions(ctx context.Context, js jetstream.JetStream, pipeline string) (map[string]*eventv1.IngestPosition, error) {
	log := fencedlog.Log{Pipeline: pipeline, Stage: fencedlog.Ingest}
	bodies, err := fencedlog.Fences(ctx, js, log)
	if err != nil {
		return nil, err
	}
	out := make(map[string]*eventv1.IngestPosition, len(bodies))
	for writer, body := range bodies {
		p := &eventv1.IngestPosition{}
		if err := proto.Unmarshal(body, p); err != nil {
			return nil, fmt.Errorf("fence of %s in %s: %w", writer, log.Stream(), err)
		}
		out[writer] = p
	}
	return out, nil
}

// IngestOver tells whether all writers of a pipeline's ingest log have gone over to another set of lanes than the one that begins with lane first, and
// have nothing more to tell from it. The pipeline's record must name the other set by then: see ADR 13.
func IngestOver(ctx context.Context, js jetstream.JetStream, pipeline string, first int) (bool, error) {
	positions, err := IngestPositions(ctx, js, pipeline)
	if err != nil {
		return false, err
	}
	for _, p := range positions {
		if int(p.GetLanesFrom()) <= first || len(p.GetBeforeOffsets()) > 0 {
			return false, nil
		}
	}
	return true, nil
}
