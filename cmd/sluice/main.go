// Command sluice is the tool for people: it applies and watches pipelines, and runs Sluice on one
// machine (standalone), as a playground (dev), or as a demonstration that proves its result (demo).
//
// Guaranteed: the exit codes of `sluice help exit-codes`, and that -o json is for programs: stable
// names, 64-bit numbers exact, one object a line where there are many. Tables are for people and may
// change.
package main

import (
	"context"
	"os"

	"sluice/libs/service"
)

func main() {
	ctx, stop := service.WithSignals(context.Background())
	code := run(ctx, os.Args[1:], stdio{os.Stdin, os.Stdout, os.Stderr})
	stop()
	os.Exit(code)
}
