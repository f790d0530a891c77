// Command bench measures Sluice end to end: real Kafka, NATS, the ClickHouse engine and the four
// services, each a process of its own on this machine. It prints events per second from the moment
// the pipeline is applied until the lag is 0, and the CPU that each process spent on an event.
//
// The topic is full before the pipeline begins, so that the producer costs nothing. Absolute times
// are noisy on a shared machine; CPU per event and the ratios within one run are what to compare.
package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"text/tabwriter"
	"time"
)

// budget is what the design allows, in microseconds of CPU per event over services and NATS, and
// events per second.
var budget = map[string]struct{ micros, rate float64 }{
	"200B":  {3.5, 250_000},
	"1.5KB": {12, 55_000},
}

// order of the processes in the table; the first five count against the budget.
var order = []string{"ingestor", "dedup", "sink", "control", "nats", "kafka", "clickhouse"}

const counted = 5

func main() {
	events := flag.Int("events", 2_000_000, "events of 200 B; a quarter of them of 1.5 KB")
	partitions := flag.Int("partitions", 4, "partitions of the topic")
	lanes := flag.Int("lanes", 4, "lanes of the pipeline")
	dedup := flag.Bool("dedup", true, "drop duplicates")
	only := flag.String("only", "", "only this shape: 200B or 1.5KB")
	engine := flag.String("engine", "MergeTree", "engine of the table: MergeTree or Null (what ClickHouse itself costs left out)")
	bin := flag.String("bin", "bin", "directory of the binaries")
	keep := flag.Bool("keep", false, "keep the directory with the logs")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, options{*events, *partitions, *lanes, *dedup, *only, *engine, *bin, *keep}); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

type options struct {
	events, partitions, lanes int
	dedup                     bool
	only, engine, bin         string
	keep                      bool
}

// result is one line of the table.
type result struct {
	shape    string
	bytes    float64
	events   int
	seconds  float64
	cpu      map[string]float64 // seconds by process
	rows     uint64
	distinct int
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
	bin, err := filepath.Abs(o.bin)
	if err != nil {
		return err
	}
	s, err := startStack(ctx, bin, dir)
	if err != nil {
		return err
	}
	defer s.stop()
	var results []result
	for _, shape := range shapes() {
		if o.only != "" && o.only != shape.name {
			continue
		}
		n := o.events
		if shape.name != "200B" {
			n /= 4
		}
		fmt.Printf("%s: producing %d events\n", shape.name, n)
		r, err := measure(ctx, s, o, shape, n)
		if err != nil {
			return fmt.Errorf("%s: %w", shape.name, err)
		}
		results = append(results, r)
	}
	return report(results, o)
}

func measure(ctx context.Context, s *stack, o options, shape shape, events int) (result, error) {
	id := "bench-" + strings.ToLower(strings.ReplaceAll(shape.name, ".", "-"))
	table := strings.ReplaceAll(id, "-", "_")
	distinct, size, err := produce(ctx, s.kafkaAddr, id, shape, events, o.partitions)
	if err != nil {
		return result{}, err
	}
	engine := "Null"
	if o.engine != "Null" {
		engine = "MergeTree ORDER BY event_id SETTINGS non_replicated_deduplication_window = 10000"
	}
	if _, err := s.query(ctx, fmt.Sprintf("CREATE TABLE %s (%s) ENGINE = %s", table, strings.Join(shape.columns, ", "), engine)); err != nil {
		return result{}, err
	}
	spec := fmt.Sprintf("id: %s\nlanes: %d\nsource: {kafka: {brokers: [%q], topic: %s}}\nsink: {clickhouse: {addr: [%q], table: %s}}\n",
		id, o.lanes, s.kafkaAddr, id, s.clickhouse, table)
	if o.dedup {
		spec += "dedup: {key: [event_id], window: 24h}\n"
	} else {
		distinct = events
	}
	before, err := s.cpu()
	if err != nil {
		return result{}, err
	}
	began := time.Now()
	if _, err := s.sluice(ctx, []byte(spec), "apply", "-f", "-"); err != nil {
		return result{}, err
	}
	if _, err := s.sluice(ctx, nil, "wait", id, "--timeout", "10m"); err != nil {
		return result{}, err
	}
	r := result{shape: shape.name, bytes: size, events: events, distinct: distinct, seconds: time.Since(began).Seconds(), cpu: map[string]float64{}}
	after, err := s.cpu()
	if err != nil {
		return result{}, err
	}
	for name, seconds := range after {
		r.cpu[name] = seconds - before[name]
	}
	out, err := s.sluice(ctx, nil, "status", id, "-o", "json")
	if err != nil {
		return result{}, err
	}
	var status struct {
		RowsOut uint64 `json:"rows_out"`
	}
	if err := json.Unmarshal(out, &status); err != nil {
		return result{}, err
	}
	r.rows = status.RowsOut
	if r.rows != uint64(distinct) {
		return result{}, fmt.Errorf("%d rows written, %d are distinct", r.rows, distinct)
	}
	if o.engine != "Null" {
		rows, err := s.query(ctx, "SELECT count() FROM "+table)
		if err != nil {
			return result{}, err
		}
		if rows != fmt.Sprint(distinct) {
			return result{}, fmt.Errorf("the table has %s rows, %d are distinct", rows, distinct)
		}
	}
	_, err = s.sluice(ctx, nil, "delete", id)
	return r, err
}

func report(results []result, o options) error {
	fmt.Printf("\n%d partitions, %d lanes, dedup %v, table engine %s; CPU in µs per event\n\n", o.partitions, o.lanes, o.dedup, o.engine)
	w := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintf(w, "event\tevents\tevents/s\tbudget\tCPU\tbudget\t%s\t\n", strings.Join(order, "\t"))
	for _, r := range results {
		perEvent := func(name string) float64 { return r.cpu[name] * 1e6 / float64(r.events) }
		var sum float64
		cells := make([]string, len(order))
		for i, name := range order {
			cells[i] = fmt.Sprintf("%.2f", perEvent(name))
			if i < counted {
				sum += perEvent(name)
			}
		}
		b := budget[r.shape]
		fmt.Fprintf(w, "%s (%.0f B)\t%d\t%.0f\t≥ %.0f\t%.2f\t≤ %.1f\t%s\t\n", r.shape, r.bytes, r.events, float64(r.events)/r.seconds, b.rate, sum, b.micros, strings.Join(cells, "\t"))
	}
	fmt.Fprintf(w, "\n")
	if err := w.Flush(); err != nil {
		return err
	}
	fmt.Println("CPU is that of the", counted, "processes before kafka; events/s from apply to lag 0.")
	return nil
}
