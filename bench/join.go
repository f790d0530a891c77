package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
)

// joinCase is a join of orders with users, INNER, of which each pair is known: its number is what is waited for.
type joinCase struct {
	name          string
	settings      string // of the join
	orders, users int
	rows          int // pairs
	order, user   func(i int) (key int, ms int64)
}

// joinEpoch is where event times begin, far enough in the past for any clock.
const joinEpoch = 1_700_000_000_000

// joinCases share n events between the sides.
func joinCases(n int) []joinCase {
	few := min(10_000, n/4) // users that many orders are of
	many := n - few
	one := n / 11 // orders of ten items each
	orders := func(i int) (int, int64) { return i % few, joinEpoch + int64(i) }
	users := func(i int) (int, int64) { return i, joinEpoch }
	const interval = "kind: INTERVAL, window: 168h, grace: 1h"
	return []joinCase{
		{"n:1 INTERVAL", interval, many, few, many, orders, users},
		{
			"1:n INTERVAL", interval, one, 10 * one, 10 * one,
			func(i int) (int, int64) { return i, joinEpoch + int64(10*i) },
			func(i int) (int, int64) { return i / 10, joinEpoch + int64(i) },
		},
		// Each order waits until the watermark has passed it: orders that are read, and the clock after the last one.
		{"n:1 LOOKUP", "kind: LOOKUP, grace: 0s, idle: 1s", many, few, many, orders, users},
	}
}

// joins measures each case once.
func joins(ctx context.Context, s *stack, o options) error {
	side, err := s.side(ctx, o.setups()[0])
	if err != nil {
		return err
	}
	w := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintf(w, "join\tevents\trows\tevents/s\tCPU\t%s\twaiting rows\tB/row\t\n", strings.Join(order, "\t"))
	for i, c := range joinCases(o.events) {
		fmt.Printf("%s: producing %d events\n", c.name, c.orders+c.users)
		r, state, err := measureJoin(ctx, s, side, o, c, fmt.Sprintf("bench-join-%d", i))
		if err != nil {
			return fmt.Errorf("%s: %w", c.name, err)
		}
		cells := make([]string, len(order))
		for i, name := range order {
			cells[i] = fmt.Sprintf("%.2f", r.perEvent(name))
		}
		fmt.Fprintf(w, "%s\t%d\t%d\t%.0f\t%.2f\t%s\t%d\t%.0f\t\n", c.name, r.events, c.rows, float64(r.events)/r.seconds, r.sum(), strings.Join(cells, "\t"),
			state.StateKeys, float64(state.StateBytes)/float64(max(state.StateKeys, 1)))
	}
	fmt.Printf("\n%d partitions each, %d lanes, table engine %s; CPU in µs per event of both topics\n\n", o.partitions, o.lanes, o.engine)
	return w.Flush()
}

// joinStatus is what of a pipeline's status is looked at.
type joinStatus struct {
	RowsOut     uint64 `json:"rows_out"`
	StateKeys   uint64 `json:"state_keys"`
	StateBytes  uint64 `json:"state_bytes"`
	Late        uint64 `json:"late"`
	DeadLetters uint64 `json:"dead_letters"`
}

func measureJoin(ctx context.Context, s *stack, side *side, o options, c joinCase, id string) (r result, state joinStatus, err error) {
	err = fill(ctx, s.kafkaAddr, id+"-orders", o.partitions, c.orders, func(dst []byte, i int) []byte {
		key, ms := c.order(i)
		return fmt.Appendf(dst, `{"id":%d,"user_id":%d,"amount":%d.25,"note":"%s","at":%d}`, i, key, i%1000, filler(uint64(i), 24), ms)
	})
	if err == nil {
		err = fill(ctx, s.kafkaAddr, id+"-users", o.partitions, c.users, func(dst []byte, i int) []byte {
			key, ms := c.user(i)
			return fmt.Appendf(dst, `{"id":%d,"name":"%s","city":"%s","at":%d}`, key, filler(uint64(i), 16), words[i%len(words)], ms)
		})
	}
	if err != nil {
		return r, state, err
	}
	table, engine := strings.ReplaceAll(id, "-", "_"), "Null"
	if o.engine != "Null" {
		engine = "MergeTree ORDER BY id SETTINGS non_replicated_deduplication_window = 10000"
	}
	if _, err := s.query(ctx, fmt.Sprintf("CREATE TABLE %s (id UInt64, amount Float64, note String, name String, city String) ENGINE = %s", table, engine)); err != nil {
		return r, state, err
	}
	spec := fmt.Sprintf(`id: %[1]s
lanes: %[2]d
sources:
  orders: {kafka: {brokers: [%[3]q], topic: %[1]s-orders}, time: at}
  users: {kafka: {brokers: [%[3]q], topic: %[1]s-users}, time: at}
join: {left: orders, right: users, on: [{left: user_id, right: id}], %[4]s}
columns: [{name: id, from: orders.id}]
sink: {clickhouse: {addr: [%[5]q], table: %[6]s}}
`, id, o.lanes, s.kafkaAddr, c.settings, s.clickhouse, table)
	before, err := s.cpu(side)
	if err != nil {
		return r, state, err
	}
	began := time.Now()
	if _, err := side.sluice(ctx, []byte(spec), "apply", "-f", "-"); err != nil {
		return r, state, err
	}
	for state.RowsOut < uint64(c.rows) {
		select {
		case <-ctx.Done():
			return r, state, ctx.Err()
		case <-time.After(200 * time.Millisecond):
		}
		out, err := side.sluice(ctx, nil, "status", id, "-o", "json")
		if err != nil {
			return r, state, err
		}
		state = joinStatus{}
		if err := json.Unmarshal(out, &state); err != nil {
			return r, state, err
		}
		if state.DeadLetters > 0 || time.Since(began) > 20*time.Minute {
			return r, state, fmt.Errorf("not all rows come: %+v of %d", state, c.rows)
		}
	}
	r = result{events: c.orders + c.users, seconds: time.Since(began).Seconds(), cpu: map[string]float64{}}
	after, err := s.cpu(side)
	if err != nil {
		return r, state, err
	}
	for name, seconds := range after {
		r.cpu[name] = seconds - before[name]
	}
	if o.engine != "Null" {
		rows, err := s.query(ctx, "SELECT count() FROM "+table)
		if err != nil || rows != fmt.Sprint(c.rows) {
			return r, state, fmt.Errorf("the table has %s rows, %d must be: %w", rows, c.rows, err)
		}
	}
	if _, err := side.sluice(ctx, nil, "delete", id); err != nil {
		return r, state, err
	}
	_, err = s.query(ctx, "DROP TABLE "+table+" SYNC")
	return r, state, err
}

// fill makes a topic and fills it.
func fill(ctx context.Context, broker, name string, partitions, events int, value func(dst []byte, i int) []byte) error {
	client, err := kgo.NewClient(kgo.SeedBrokers(broker), kgo.RecordPartitioner(kgo.RoundRobinPartitioner()),
		kgo.ProducerBatchCompression(kgo.Lz4Compression()), kgo.MaxBufferedRecords(200_000))
	if err != nil {
		return err
	}
	defer client.Close()
	if _, err := kadm.NewClient(client).CreateTopic(ctx, int32(partitions), 1, nil, name); err != nil {
		return fmt.Errorf("create topic %s: %w", name, err)
	}
	var failed error
	for i := range events {
		client.Produce(ctx, &kgo.Record{Topic: name, Value: value(nil, i)}, func(_ *kgo.Record, err error) {
			if err != nil && failed == nil {
				failed = err
			}
		})
	}
	if err := client.Flush(ctx); err != nil {
		return err
	}
	return failed
}
