// Command bench measures Sluice end to end: real Kafka, NATS, the ClickHouse engine and the services, each a process of its own on
// this machine. It prints events per second from the moment a pipeline is applied until its lag is 0, and the CPU that each process
// spent on an event; with -latency, how long events take at a given rate.
//
// The topic is full before the pipeline begins, so that the producer costs nothing. Absolute times are noisy on a shared machine;
// what is compared must be compared by turns in one run: -against, -scaling, -rounds.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
)

type options struct {
	events, partitions, lanes, rounds int
	dedup, scaling, keep, join        bool
	only, engine, bin                 string
	against                           []string
	latency                           []int
	seconds                           int
}

// setup is one way to run the services that is measured.
type setup struct {
	name      string
	bin       string
	lanes     int
	instances int // of ingestor, dedup and sink each
}

func main() {
	var o options
	flag.IntVar(&o.events, "events", 2_000_000, "events of 200 B; a quarter of them of 1.5 KB")
	flag.IntVar(&o.partitions, "partitions", 4, "partitions of the topic")
	flag.IntVar(&o.lanes, "lanes", 4, "lanes of the pipeline")
	flag.IntVar(&o.rounds, "rounds", 1, "how often each setup is measured, by turns; what is printed is the median")
	flag.BoolVar(&o.dedup, "dedup", true, "drop duplicates")
	flag.BoolVar(&o.join, "join", false, "measure joins of two topics instead: n:1 and 1:n, INTERVAL and LOOKUP")
	flag.BoolVar(&o.scaling, "scaling", false, "measure 1, 2 and 4 lanes and one and two instances of each stage")
	flag.StringVar(&o.only, "only", "", "only this shape: 200B or 1.5KB")
	flag.StringVar(&o.engine, "engine", "MergeTree", "engine of the table: MergeTree or Null (what ClickHouse itself costs left out)")
	flag.StringVar(&o.bin, "bin", "bin", "directory of the binaries")
	against := flag.String("against", "", "directories of other binaries, separated by commas, which are measured too, by turns")
	flag.BoolVar(&o.keep, "keep", false, "keep the directory with the logs")
	rates := flag.String("latency", "", "measure latency instead, at these rates: events a second, separated by commas")
	flag.IntVar(&o.seconds, "seconds", 20, "how long each rate is held")
	flag.Parse()
	if err := o.parse(*rates, *against); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(2)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, o); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func (o *options) parse(rates, against string) (err error) {
	if o.bin, err = filepath.Abs(o.bin); err != nil {
		return err
	}
	for dir := range strings.SplitSeq(against, ",") {
		if dir == "" {
			continue
		}
		abs, err := filepath.Abs(dir)
		if err != nil {
			return err
		}
		o.against = append(o.against, abs)
	}
	for text := range strings.SplitSeq(rates, ",") {
		if text == "" {
			continue
		}
		rate, err := strconv.Atoi(text)
		if err != nil || rate <= 0 {
			return fmt.Errorf("-latency: %q is no rate", text)
		}
		o.latency = append(o.latency, rate)
	}
	return nil
}

func (o *options) setups() []setup {
	if o.scaling {
		var out []setup
		for _, lanes := range []int{1, 2, 4} {
			for _, instances := range []int{1, 2} {
				out = append(out, setup{fmt.Sprintf("%d lanes, %d of each", lanes, instances), o.bin, lanes, instances})
			}
		}
		return out
	}
	out := []setup{{filepath.Base(o.bin), o.bin, o.lanes, 1}}
	for _, dir := range o.against {
		out = append(out, setup{filepath.Base(dir), dir, o.lanes, 1})
	}
	return out
}

func run(ctx context.Context, o options) error {
	dir, err := os.MkdirTemp("", "sluice-bench-")
	if err != nil {
		return err
	}
	if o.keep {
		fmt.Println("logs in", dir)
	} else {
		defer os.RemoveAll(dir)
	}
	s, err := startStack(ctx, o.bin, dir)
	if err != nil {
		return err
	}
	defer s.stop()
	if len(o.latency) > 0 {
		return latency(ctx, s, o)
	}
	if o.join {
		return joins(ctx, s, o)
	}
	return throughput(ctx, s, o)
}
