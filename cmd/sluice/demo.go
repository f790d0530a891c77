package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2"
	"github.com/spf13/cobra"

	controlv1 "sluice/gen/sluice/control/v1"
	"sluice/libs/service"
)

const (
	demoTopic      = "user-events"
	demoPartitions = 4
	demoTimeout    = 5 * time.Minute
	demoTable      = `CREATE TABLE user_events
(
    event_id   UUID,
    user_id    UInt64,
    name       String,
    email      String,
    created_at DateTime64(3, 'UTC')
)
ENGINE = MergeTree
ORDER BY (created_at, event_id)
SETTINGS non_replicated_deduplication_window = 1000`
)

// demoSpec is all that a user writes.
func demoSpec(a addresses) string {
	return fmt.Sprintf(`id: user-events
source: {kafka: {brokers: ["%s"], topic: %s}}
dedup: {key: [event_id], window: 24h}
sink: {clickhouse: {addr: ["%s"], table: user_events}}
`, a.Kafka, demoTopic, a.ClickHouse)
}

func demoCommand() *cobra.Command {
	g := generator{}
	p := &playground{cfg: service.DefaultConfig("control"), listen: anyPorts()}
	p.cfg.LogLevel = "warn"
	var percent float64
	cmd := &cobra.Command{
		Use:   "demo",
		Short: "Move a million events with duplicates into a table and prove the result",
		Long: `Start a playground, produce events of which some are duplicates (some within one batch, some minutes
of event time later), run a pipeline over them and prove by SQL that the table holds each event exactly
once and exactly as it was first produced. The last line is PASS or FAIL; the exit code says the same.`,
		Args: noArgs,
	}
	fs := cmd.Flags()
	fs.IntVar(&g.events, "events", 1_000_000, "events to produce, duplicates included")
	fs.Uint64Var(&g.seed, "seed", 1, "seed of the events")
	fs.Float64Var(&percent, "duplicates", 10, "percent of the events that are duplicates")
	fs.StringVar(&p.kafka, "kafka", "", "host:port of a Kafka to use instead of the playground's; the topic "+demoTopic+" must not exist")
	fs.StringVar(&p.cfg.LogLevel, "log-level", p.cfg.LogLevel, "debug, info, warn or error")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if g.events < 1 || percent < 0 || percent >= 100 {
			return usagef("--events must be at least 1, --duplicates from 0 to below 100")
		}
		g.duplicates = int(float64(g.events) * percent / 100)
		p.progress = cmd.ErrOrStderr()
		if err := p.check(); err != nil {
			return err
		}
		var err error
		if p.dir, err = os.MkdirTemp("", "sluice-demo-"); err != nil {
			return fmt.Errorf("make the data directory: %w", err)
		}
		defer os.RemoveAll(p.dir)
		out := cmd.OutOrStdout()
		ok, err := runDemo(cmd.Context(), p, out, func(ctx context.Context, a addresses) (bool, error) { return demonstrate(ctx, a, g, out) })
		switch {
		case err != nil:
			fmt.Fprintln(out, "FAIL")
			return err
		case !ok:
			fmt.Fprintln(out, "FAIL")
			return errors.New("the table is not what was produced")
		}
		fmt.Fprintln(out, "PASS")
		return nil
	}
	cmd.AddCommand(demoJoinCommand())
	return cmd
}

// runDemo runs the playground around the demonstration.
func runDemo(parent context.Context, p *playground, out io.Writer, show func(context.Context, addresses) (bool, error)) (ok bool, err error) {
	ctx, cancel := context.WithTimeout(parent, demoTimeout)
	defer cancel()
	ready := make(chan addresses, 1)
	ended := make(chan error, 1)
	playCtx, stop := context.WithCancel(context.WithoutCancel(ctx))
	began := time.Now()
	go func() { ended <- p.run(playCtx, func(a addresses) { ready <- a }) }()
	defer func() {
		stop()
		err = errors.Join(err, <-ended)
	}()
	select {
	case a := <-ready:
		fmt.Fprintf(out, "playground up in %.1f s: Kafka %s, ClickHouse %s, NATS %s\n", time.Since(began).Seconds(), a.Kafka, a.ClickHouse, a.NATS)
		return show(ctx, a)
	case err := <-ended:
		ended <- nil
		return false, err
	case <-ctx.Done():
		return false, ctx.Err()
	}
}

func demonstrate(ctx context.Context, a addresses, g generator, out io.Writer) (bool, error) {
	db, err := clickhouse.Open(&clickhouse.Options{Addr: []string{a.ClickHouse}})
	if err != nil {
		return false, fmt.Errorf("ClickHouse: %w", err)
	}
	defer db.Close()
	if err := db.Exec(ctx, demoTable); err != nil {
		return false, fmt.Errorf("make the table: %w", err)
	}
	began := time.Now()
	want, err := produce(ctx, a.Kafka, g)
	if err != nil {
		return false, fmt.Errorf("produce the events: %w", err)
	}
	took := time.Since(began).Seconds()
	fmt.Fprintf(out, "produced %s events to %s in %.1f s: %s distinct, %s duplicates\n", thousands(uint64(g.events)), demoTopic, took,
		thousands(want.rows), thousands(uint64(g.events)-want.rows))

	status, moved, err := demoPipeline(ctx, a, demoSpec(a), out, func(api controlv1.PipelineServiceClient, id string) error {
		bar := &progress{w: out, terminal: isTerminal(out)}
		if !bar.terminal {
			bar.every = time.Second
		}
		defer bar.end()
		return waitLag(ctx, api, id, demoTimeout, bar.status)
	})
	if err != nil {
		return false, err
	}
	found, err := prove(ctx, db)
	if err != nil {
		return false, fmt.Errorf("prove the result: %w", err)
	}
	fmt.Fprintf(out, "lag 0 after %.1f s: %s events/s end to end\n\n", moved.Seconds(), thousands(uint64(float64(g.events)/moved.Seconds())))
	return report(out, g, want, found, status)
}
