// Command join runs the join stage: it matches the rows of all pipelines that have two sources.
package main

import (
	"context"
	"os"

	"sluice/libs/service"
	"sluice/services/join"
)

func main() {
	os.Exit(service.Execute(context.Background(), join.Definition(), os.Args[1:], os.Stdout, os.Stderr))
}
