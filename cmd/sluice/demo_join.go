package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2"
	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"
	"github.com/spf13/cobra"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/zeebo/xxh3"

	controlv1 "sluice/gen/sluice/control/v1"
	"sluice/libs/service"
)

const (
	joinedTable = `CREATE TABLE paid_orders
(
    order_id   UInt64,
    customer   String,
    payment_id Nullable(UInt64),
    cents      Int64
)
ENGINE = MergeTree
ORDER BY order_id
SETTINGS non_replicated_deduplication_window = 1000`
	// joinedWindow is how far apart an order and its payment may be; the events lie a millisecond apart.
	joinedWindow = 2 * time.Second
)

func joinedSpec(a addresses) string {
	return fmt.Sprintf(`id: paid-orders
sources:
  orders: {kafka: {brokers: ["%[1]s"], topic: orders}, time: at, dedup: {key: [order_id], window: 1h}}
  payments: {kafka: {brokers: ["%[1]s"], topic: payments}, time: at}
join: {left: orders, right: payments, on: [{left: order_id, right: order}], window: %[3]s, grace: 500ms, type: LEFT}
columns: [{name: cents, from: payments.cents}]
sink: {clickhouse: {addr: ["%[2]s"], table: paid_orders}}
`, a.Kafka, a.ClickHouse, joinedWindow)
}

func demoJoinCommand() *cobra.Command {
	p := &playground{cfg: service.DefaultConfig("control"), listen: anyPorts()}
	p.cfg.LogLevel = "warn"
	var orders int
	cmd := &cobra.Command{
		Use:   "join",
		Short: "Match orders with their payments and prove the result",
		Long: `Start a playground and produce two topics: orders, a tenth of them twice, and payments, for some orders none, for some two, for
some too late. Join them (INTERVAL, LEFT) and prove by SQL that the table holds each pair, and each order without a payment, exactly once. The
last line is PASS or FAIL; the exit code says the same.`,
		Args: noArgs,
	}
	cmd.Flags().IntVar(&orders, "orders", 200_000, "orders to produce, without those that come twice")
	cmd.Flags().StringVar(&p.cfg.LogLevel, "log-level", p.cfg.LogLevel, "debug, info, warn or error")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if orders < 1 {
			return usagef("--orders must be at least 1")
		}
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
		ok, err := runDemo(cmd.Context(), p, out, func(ctx context.Context, a addresses) (bool, error) { return demonstrateJoin(ctx, a, orders, out) })
		if err != nil || !ok {
			fmt.Fprintln(out, "FAIL")
			return errors.Join(err, errors.New("the table is not what the two topics give"))
		}
		fmt.Fprintln(out, "PASS")
		return nil
	}
	return cmd
}

func demonstrateJoin(ctx context.Context, a addresses, orders int, out io.Writer) (bool, error) {
	db, err := clickhouse.Open(&clickhouse.Options{Addr: []string{a.ClickHouse}})
	if err != nil {
		return false, fmt.Errorf("ClickHouse: %w", err)
	}
	defer db.Close()
	if err := db.Exec(ctx, joinedTable); err != nil {
		return false, fmt.Errorf("make the table: %w", err)
	}
	want, err := produceOrders(ctx, a.Kafka, orders)
	if err != nil {
		return false, fmt.Errorf("produce the events: %w", err)
	}
	fmt.Fprintf(out, "produced %s orders and %s payments\n", thousands(want.orders), thousands(want.payments))
	status, took, err := demoPipeline(ctx, a, joinedSpec(a), out, func(controlv1.PipelineServiceClient, string) error {
		// The last orders without a payment come out once event time has passed their windows, on the clock: no lag tells of them.
		return waitRows(ctx, db, want.rows)
	})
	if err != nil {
		return false, err
	}
	fmt.Fprintf(out, "%s rows after %.1f s\n\n", thousands(want.rows), took.Seconds())
	var got paidOrders
	const query = `SELECT count(), countIf(payment_id IS NULL), uniqExact(order_id), sum(h), groupBitXor(h) FROM (SELECT order_id, payment_id,
xxh3(concat(toString(order_id), '|', customer, '|', ifNull(toString(payment_id), '-'), '|', toString(cents))) AS h FROM paid_orders)`
	if err := db.QueryRow(ctx, query).Scan(&got.rows, &got.alone, &got.orders, &got.sum, &got.xor); err != nil {
		return false, fmt.Errorf("prove the result: %w", err)
	}
	return reportJoin(out, want, got, status)
}

// waitRows waits until the table has as many rows, or ctx ends.
func waitRows(ctx context.Context, db driver.Conn, rows uint64) error {
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	var have uint64
	for have < rows {
		select {
		case <-ctx.Done():
			return fmt.Errorf("%s of %s rows: %w", thousands(have), thousands(rows), ctx.Err())
		case <-tick.C:
		}
		if err := db.QueryRow(ctx, "SELECT count() FROM paid_orders").Scan(&have); err != nil {
			return fmt.Errorf("count the rows: %w", err)
		}
	}
	return nil
}

// paidOrders is what the table must hold, or does.
type paidOrders struct {
	orders, payments, rows, alone, twice uint64
	sum, xor                             uint64
}

func (p *paidOrders) add(order uint64, customer, payment string, cents int64) {
	h := xxh3.HashString(fmt.Sprintf("%d|%s|%s|%d", order, customer, payment, cents))
	p.rows++
	p.sum += h
	p.xor ^= h
}

// produceOrders sends both topics and returns what they give.
func produceOrders(ctx context.Context, broker string, orders int) (paidOrders, error) {
	var want paidOrders
	client, err := kgo.NewClient(kgo.SeedBrokers(broker), kgo.RecordPartitioner(kgo.StickyKeyPartitioner(nil)), kgo.MaxBufferedRecords(100_000))
	if err != nil {
		return want, err
	}
	defer client.Close()
	made, err := kadm.NewClient(client).CreateTopics(ctx, demoPartitions, 1, nil, "orders", "payments")
	if err == nil {
		err = made.Error()
	}
	if err != nil {
		return want, fmt.Errorf("make the topics: %w", err)
	}
	var failed atomic.Pointer[error]
	send := func(topic, key, value string) {
		client.Produce(ctx, &kgo.Record{Topic: topic, Key: []byte(key), Value: []byte(value)}, func(_ *kgo.Record, err error) {
			if err != nil {
				failed.CompareAndSwap(nil, &err)
			}
		})
	}
	begin := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	format := func(at time.Time) string { return at.Format("2006-01-02T15:04:05.000Z") }
	// Order n and payment n are made at n milliseconds; a payment is of an order up to 3 s before it.
	paid := make([][]int, orders)
	for n := range orders {
		for _, age := range paymentsOf(n) {
			if order := n - age; order >= 0 {
				id := int(want.payments)
				want.payments++
				if time.Duration(age)*time.Millisecond <= joinedWindow {
					paid[order] = append(paid[order], id)
				}
				send("payments", strconv.Itoa(order), fmt.Sprintf(`{"payment_id":%d,"order":%d,"cents":%d,"at":%q}`, id, order, -id, format(begin.Add(time.Duration(n)*time.Millisecond))))
			}
		}
		want.orders++
		value := fmt.Sprintf(`{"order_id":%d,"customer":"customer %d","at":%q}`, n, n%1000, format(begin.Add(time.Duration(n)*time.Millisecond)))
		send("orders", strconv.Itoa(n), value)
		if n%10 == 0 {
			want.twice++
			send("orders", strconv.Itoa(n), value)
		}
	}
	if err := client.Flush(ctx); err != nil {
		return want, err
	}
	if p := failed.Load(); p != nil {
		return want, *p
	}
	for n, payments := range paid {
		customer := fmt.Sprintf("customer %d", n%1000)
		if len(payments) == 0 {
			want.alone++
			want.add(uint64(n), customer, "-", 0)
		}
		for _, id := range payments {
			want.add(uint64(n), customer, strconv.Itoa(id), -int64(id))
		}
	}
	return want, nil
}

// paymentsOf is how old the orders are, in milliseconds, that are paid at n.
func paymentsOf(n int) []int {
	switch n % 5 {
	case 0:
		return nil
	case 1:
		return []int{n * 7 % 2000, n * 11 % 2000}
	case 2:
		return []int{2001 + n*13%1000} // too late
	}
	return []int{n * 17 % 2000}
}

func reportJoin(w io.Writer, want, got paidOrders, s *controlv1.PipelineStatus) (bool, error) {
	var c comparison
	c.check("rows in the table", thousands(want.rows), thousands(got.rows))
	c.check("orders in it", thousands(want.orders), thousands(got.orders))
	c.check("orders without a payment", thousands(want.alone), thousands(got.alone))
	c.check("sum of xxh3 over rows", fmt.Sprintf("%016x", want.sum), fmt.Sprintf("%016x", got.sum))
	c.check("xor of xxh3 over rows", fmt.Sprintf("%016x", want.xor), fmt.Sprintf("%016x", got.xor))
	c.check("duplicates dropped (status)", thousands(want.twice), thousands(s.GetDuplicates()))
	c.check("dead letters (status)", "0", thousands(s.GetDeadLetters()))
	return c.print(w)
}
