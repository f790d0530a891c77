package fold

import (
	"context"
	"fmt"

	"github.com/nats-io/nats.go/jetstream"
	"google.golang.org/protobuf/proto"

	eventv1 "sluice/gen/sluice/event/v1"
	"sluice/libs/fencedlog"
)

// IngestOver tells whether all writers of a pipeline's ingest log have gone over to another set of lanes than the one that begins with lane first, and
// have nothing more to tell from it. The pipeline's record must name the other set by then: see ADR 13.
func IngestOver(ctx context.Context, js jetstream.JetStream, pipeline string, first int) (bool, error) {
	bodies, err := fencedlog.Fences(ctx, js, fencedlog.Log{Pipeline: pipeline, Stage: fencedlog.Ingest})
	if err != nil {
		return false, err
	}
	for writer, body := range bodies {
		var p eventv1.IngestPosition
		if err := proto.Unmarshal(body, &p); err != nil {
			return false, fmt.Errorf("fence of %s in the ingest log: %w", writer, err)
		}
		if int(p.GetLanesFrom()) <= first || len(p.GetBeforeOffsets()) > 0 {
			return false, nil
		}
	}
	return true, nil
}
