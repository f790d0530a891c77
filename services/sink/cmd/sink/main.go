// Command sink writes the events of all pipelines to ClickHouse.
package main

import (
	"context"

	"sluice/libs/registry"
	"sluice/libs/service"
	"sluice/services/sink"
)

func main() {
	service.Main("sink", func(ctx context.Context, deps service.Deps) (service.Service, error) {
		reg, err := registry.Open(ctx, deps.JS)
		if err != nil {
			return nil, err
		}
		return sink.New(deps, reg)
	})
}
