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
	"sluice/services/sink"
)

// allServices are what standalone and dev run in one process: the same code as the four binaries.
func allServices() []service.Definition {
	return []service.Definition{
		{Name: "control", Build: control.Build, GRPC: []*grpc.ServiceDesc{&controlv1.PipelineService_ServiceDesc}},
		{Name: "ingestor", Build: ingestor.Build},
		{Name: "dedup", Build: dedup.Build},
		{Name: "sink", Build: func(ctx context.Context, d service.Deps) (service.Service, error) {
			reg, err := registry.Open(ctx, d.JS)
			if err != nil {
				return nil, err
			}
			return sink.New(d, reg)
		}},
	}
}
