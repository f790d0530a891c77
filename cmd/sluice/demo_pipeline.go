package main

import (
	"context"
	"fmt"
	"io"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	controlv1 "sluice/gen/sluice/control/v1"
	"sluice/libs/spec"
)

// demoPipeline prints a specification and applies it as a user would. It returns the pipeline's status when arrived has
// returned, and how long that took.
func demoPipeline(ctx context.Context, a addresses, text string, out io.Writer,
	arrived func(api controlv1.PipelineServiceClient, id string) error) (*controlv1.PipelineStatus, time.Duration, error) {
	fmt.Fprintf(out, "\nsluice apply -f - <<EOF\n%sEOF\n", text)
	pipeline, err := spec.Parse("demo", []byte(text))
	if err != nil {
		return nil, 0, err
	}
	conn, err := grpc.NewClient(a.GRPC, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return nil, 0, fmt.Errorf("control service: %w", err)
	}
	defer conn.Close()
	api := controlv1.NewPipelineServiceClient(conn)
	began := time.Now()
	made, err := applyPipeline(ctx, api, pipeline, false)
	if err != nil {
		return nil, 0, fmt.Errorf("apply the pipeline: %w", err)
	}
	if err := made.print(out); err != nil {
		return nil, 0, err
	}
	if err := arrived(api, pipeline.GetId()); err != nil {
		return nil, 0, err
	}
	took := time.Since(began)
	last, err := api.Status(ctx, &controlv1.StatusRequest{Id: pipeline.GetId()})
	return last.GetStatus(), took, err
}
