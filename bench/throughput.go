package main

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"slices"
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

// order of the processes in the table; the first six count against the budget.
var order = []string{"ingestor", "dedup", "join", "sink", "control", "nats", "kafka", "clickhouse"}

const counted = 6

// result is one measurement.
type result struct {
	setup   string
	shape   string
	bytes   float64
	events  int
	seconds float64
	cpu     map[string]float64 // seconds by process
	batch   float64            // events in a message of the ingest log
}

// perEvent is the CPU of a process in microseconds.
func (r result) perEvent(name string) float64 { return r.cpu[name] * 1e6 / float64(r.events) }

func (r result) sum() (sum float64) {
	for _, name := range order[:counted] {
		sum += r.perEvent(name)
	}
	return sum
}

func throughput(ctx context.Context, s *stack, o options) error {
	setups := o.setups()
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
		t, err := produce(ctx, s.kafkaAddr, "bench-"+slug(shape.name), shape, n, o.partitions)
		if err != nil {
			return err
		}
		for round := range o.rounds {
			for i := range setups {
				// The other way round every second time: who comes first finds the caches cold.
				su := setups[i]
				if round%2 == 1 {
					su = setups[len(setups)-1-i]
				}
				r, err := measure(ctx, s, o, su, shape, t, fmt.Sprintf("%s-%d-%d", slug(shape.name), round, i))
				if err != nil {
					return fmt.Errorf("%s, %s: %w", shape.name, su.name, err)
				}
				if len(setups)*o.rounds > 1 {
					fmt.Printf("%s, %s, round %d: %.2f µs, %.0f events/s, %.0f events in a batch\n", shape.name, su.name, round+1, r.sum(), float64(r.events)/r.seconds, r.batch)
				}
				results = append(results, r)
			}
		}
	}
	return report(medians(results), o)
}

func slug(name string) string { return strings.ToLower(strings.ReplaceAll(name, ".", "-")) }

func measure(ctx context.Context, s *stack, o options, su setup, shape shape, t topic, id string) (result, error) {
	side, err := s.side(ctx, su)
	if err != nil {
		return result{}, err
	}
	id = "bench-" + id
	table := strings.ReplaceAll(id, "-", "_")
	engine := "Null"
	if o.engine != "Null" {
		engine = "MergeTree ORDER BY event_id SETTINGS non_replicated_deduplication_window = 10000"
	}
	if _, err := s.query(ctx, fmt.Sprintf("CREATE TABLE %s (%s) ENGINE = %s", table, strings.Join(shape.columns, ", "), engine)); err != nil {
		return result{}, err
	}
	spec := fmt.Sprintf("id: %s\nlanes: %d\nsource: {kafka: {brokers: [%q], topic: %s}}\nsink: {clickhouse: {addr: [%q], table: %s}}\n",
		id, su.lanes, s.kafkaAddr, t.name, s.clickhouse, table)
	distinct := t.distinct
	if o.dedup {
		spec += "dedup: {key: [event_id], window: 24h}\n"
	} else {
		distinct = t.events
	}
	before, err := s.cpu(side)
	if err != nil {
		return result{}, err
	}
	began := time.Now()
	if _, err := side.sluice(ctx, []byte(spec), "apply", "-f", "-"); err != nil {
		return result{}, err
	}
	if _, err := side.sluice(ctx, nil, "wait", id, "--timeout", "10m"); err != nil {
		return result{}, err
	}
	r := result{setup: su.name, shape: shape.name, bytes: t.size, events: t.events, seconds: time.Since(began).Seconds(), cpu: map[string]float64{}}
	after, err := s.cpu(side)
	if err != nil {
		return result{}, err
	}
	for name, seconds := range after {
		r.cpu[name] = seconds - before[name]
	}
	out, err := side.sluice(ctx, nil, "status", id, "-o", "json")
	if err != nil {
		return result{}, err
	}
	var status struct {
		RowsOut uint64 `json:"rows_out"`
	}
	if err := json.Unmarshal(out, &status); err != nil {
		return result{}, err
	}
	if status.RowsOut != uint64(distinct) {
		return result{}, fmt.Errorf("%d rows written, %d are distinct", status.RowsOut, distinct)
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
	messages, err := side.messages(ctx, id)
	if err != nil {
		return result{}, err
	}
	r.batch = float64(t.events) / float64(messages)
	if _, err := side.sluice(ctx, nil, "delete", id); err != nil {
		return result{}, err
	}
	_, err = s.query(ctx, "DROP TABLE "+table+" SYNC")
	return r, err
}

// medians keeps, of the rounds of each setup and shape, the one in the middle by CPU.
func medians(results []result) (out []result) {
	type key struct{ shape, setup string }
	rounds := map[key][]result{}
	var keys []key
	for _, r := range results {
		k := key{r.shape, r.setup}
		if rounds[k] == nil {
			keys = append(keys, k)
		}
		rounds[k] = append(rounds[k], r)
	}
	for _, k := range keys {
		list := rounds[k]
		slices.SortFunc(list, func(a, b result) int { return cmp.Compare(a.sum(), b.sum()) })
		out = append(out, list[len(list)/2])
	}
	return out
}

func report(results []result, o options) error {
	fmt.Printf("\n%d partitions, dedup %v, table engine %s; CPU in µs per event, the median of %d\n\n", o.partitions, o.dedup, o.engine, o.rounds)
	w := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintf(w, "event\tsetup\tevents\tevents/s\tbudget\tbatch\tCPU\tbudget\t%s\t\n", strings.Join(order, "\t"))
	for _, r := range results {
		cells := make([]string, len(order))
		for i, name := range order {
			cells[i] = fmt.Sprintf("%.2f", r.perEvent(name))
		}
		b := budget[r.shape]
		fmt.Fprintf(w, "%s (%.0f B)\t%s\t%d\t%.0f\t≥ %.0f\t%.0f\t%.2f\t≤ %.1f\t%s\t\n", r.shape, r.bytes, r.setup, r.events,
			float64(r.events)/r.seconds, b.rate, r.batch, r.sum(), b.micros, strings.Join(cells, "\t"))
	}
	fmt.Fprintf(w, "\n")
	if err := w.Flush(); err != nil {
		return err
	}
	fmt.Println("CPU is that of the", counted, "processes before kafka; events/s from apply to lag 0.")
	return nil
}
