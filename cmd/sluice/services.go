package main

import (
	"context"

	"google.golang.org/grpc"

	controlv1 "sluice/gen/sluice/control/v1"
	"sluice/libs/registry"
	"sluice/libs/service"
	"sluice/services/control"
	"sluice/services/dedup"
	"sluice/services/ingestor"
	"sluice/services/join"
	"sluice/services/sink"
)

// allServices are what standalone and dev run in one process: the same code as the five binaries. Rows of joins that do not fit
// into memory go to dir; "": the system's directory for temporary files.
func allServices(dir string) []service.Definition {
	return []service.Definition{
		{Name: "control", Build: control.Build, GRPC: []*grpc.ServiceDesc{&controlv1.PipelineService_ServiceDesc}},
		{Name: "ingestor", Build: ingestor.Build},
		{Name: "dedup", Build: dedup.Build},
		{Name: "join", Build: func(ctx context.Context, d service.Deps) (service.Service, error) { return join.BuildIn(ctx, d, dir) }},
		{Name: "sink", Build: func(ctx context.Context, d service.Deps) (service.Service, error) {
			reg, err := registry.Open(ctx, d.JS)
			if err != nil {
				return nil, err
			}
			return sink.New(d, reg)
		}},
	}
}
