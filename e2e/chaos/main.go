//go:build unix

package main

import (
	"context"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"
)

// Config is a run.
type Config struct {
	Job    Job           // the pipeline
	Faults int           // how many
	Seed   uint64        // of the schedule and of the events
	Rate   int           // events a second
	Window int           // blocks that the table remembers
	Settle time.Duration // longest time until lag is 0 after the last fault
	Bin    string        // directory of the binaries
	Dir    string        // of everything that the run leaves
	Keep   bool          // keep Dir also after a success
	// Outages, if there are any, come instead of the schedule.
	Outages []Outage
	Memory  uint64 // MiB that no service may exceed
	PutBack bool   // the schedule has the store of NATS put back, too
	// PutBackParts: likewise, but each time some of its streams and buckets.
	PutBackParts bool
}

func main() {
	var c Config
	name := flag.String("pipeline", JobDedup, "pipeline to test: "+JobDedup+" or "+JobJoin)
	kind := flag.String("kind", "", "of the join: INTERVAL or LOOKUP; by the seed if not given")
	typ := flag.String("type", "", "of the join: LEFT or INNER; by the seed if not given")
	both := flag.String("both", "", "true or false: drop duplicates of the join's right side, too; by the seed if not given")
	eventTime := flag.Bool("event-time", false, "without a join: dedup goes by a field of the event")
	flag.IntVar(&c.Faults, "faults", 60, "number of faults")
	flag.Uint64Var(&c.Seed, "seed", 0, "seed of schedule and events; 0: a random one")
	flag.IntVar(&c.Rate, "rate", 2500, "events a second")
	flag.IntVar(&c.Window, "dedup-window", 1000, "blocks whose tokens the table remembers")
	flag.DurationVar(&c.Settle, "settle", 2*time.Minute, "longest time until lag is 0 after the last fault")
	flag.StringVar(&c.Bin, "bin", "bin", "directory of the binaries to test")
	flag.StringVar(&c.Dir, "dir", "", "directory for data and logs; default a temporary one")
	flag.BoolVar(&c.Keep, "keep", false, "keep data and logs after a success, too")
	flag.Uint64Var(&c.Memory, "memory", 512, "MiB of resident memory that no service may exceed")
	long := flag.String("outages", "", "long outages instead of the schedule: PART=DURATION,…, or \"long\" for "+outages)
	flag.BoolVar(&c.PutBack, "put-back", false, "put earlier copies of NATS' store back, too")
	flag.BoolVar(&c.PutBackParts, "put-back-parts", false, "put earlier copies of some of the pipeline's streams and buckets back, too; its lanes are not changed")
	plan := flag.Bool("plan", false, "print the schedule and do nothing")
	flag.Parse()
	if c.Seed == 0 {
		c.Seed = rand.Uint64N(1_000_000) + 1
	}
	join, err := kindOf(*kind, *typ, *both, c.Seed)
	if err == nil {
		c.Job, err = newJob(*name, join, *eventTime, c.Seed, c.Rate)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "chaos:", err)
		os.Exit(2)
	}
	if *long == "long" {
		*long = outages
	}
	if *long != "" {
		if c.Outages, err = ParseOutages(*long, c.Job.Stages()); err != nil {
			fmt.Fprintln(os.Stderr, "chaos:", err)
			os.Exit(2)
		}
	}
	if *plan {
		printPlan(c.plan())
		return
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	ok, err := run(ctx, c)
	if err != nil {
		fmt.Fprintln(os.Stderr, "chaos:", err)
	}
	if err != nil || !ok {
		stop()
		fmt.Println("FAIL")
		os.Exit(1)
	}
	fmt.Println("PASS")
}

// plan is the schedule.
func (c Config) plan() []Step {
	if len(c.Outages) > 0 {
		return outagePlan(c.Outages)
	}
	if c.PutBack || c.PutBackParts {
		return Plan(c.Seed, c.Faults, c.Job.Stages(), putBacks...)
	}
	return Plan(c.Seed, c.Faults, c.Job.Stages())
}

// run prepares the directory and removes it after a success.
func run(ctx context.Context, c Config) (ok bool, err error) {
	if c.Bin, err = filepath.Abs(c.Bin); err != nil {
		return false, err
	}
	if c.Dir == "" {
		if c.Dir, err = os.MkdirTemp("", "sluice-chaos-"); err != nil {
			return false, err
		}
	}
	r := newRun(c)
	ok, err = r.do(ctx)
	if ok && err == nil && !c.Keep {
		return ok, os.RemoveAll(c.Dir)
	}
	fmt.Println("data and logs:", c.Dir)
	return ok, err
}

func printPlan(plan []Step) {
	for i, s := range plan {
		fmt.Printf("  %3d  after %4d ms:", i+1, s.After.Milliseconds())
		for _, f := range s.Faults {
			fmt.Printf("  %s", f)
		}
		fmt.Println()
	}
}
