//go:build linux

package compose

import (
	"fmt"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"sluice/e2e/internal/stack"
)

const (
	partitions = 4
	lanes      = 4
	customers  = 100
)

var (
	// pipelines are what events flow through: one that drops duplicates, and one that joins what is left with customers.
	pipelines = []string{"orders", "named"}
	// units is what a service's instances share, of both pipelines.
	units = map[string]int{"ingestor": 3 * partitions, "dedup": 2 * lanes, "join": lanes, "sink": 2 * lanes}
)

// orders are events of the test: numbers from 0 on, each of one of the customers. Every third is sent a second time at
// once, and every seventh of those before it again.
type orders struct {
	producer *stack.Producer
	next     int // owned by the flow while there is one
}

func (o *orders) write(n int) {
	one := func(i int) {
		id := strconv.Itoa(i)
		o.producer.Send(stack.PartitionOf(id, partitions), nil, fmt.Appendf(nil, `{"id":%d,"text":"order %d","customer":%d}`, i, i, i%customers))
	}
	for range n {
		one(o.next)
		if o.next%3 == 0 {
			one(o.next)
		}
		if o.next%7 == 0 {
			one(o.next / 2)
		}
		o.next++
	}
}

// send is write; it returns once Kafka has them.
func (o *orders) send(n int) {
	o.write(n)
	o.producer.Flush()
}

// flow writes 500 events a second, and more for the duplicates, until the function that it returns is called; that
// returns once Kafka has them all.
func (o *orders) flow(t *testing.T) (pause func()) {
	done := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		tick := time.NewTicker(100 * time.Millisecond)
		defer tick.Stop()
		for {
			o.write(50)
			select {
			case <-done:
				return
			case <-tick.C:
			}
		}
	})
	stop := sync.OnceFunc(func() {
		close(done)
		wg.Wait()
	})
	t.Cleanup(stop)
	return func() {
		stop()
		o.producer.Flush()
	}
}

// check compares the tables with what was sent, row by row.
func (o *orders) check(t *testing.T, table *stack.Table) {
	t.Helper()
	for query, row := range map[string]func(i int) string{
		"SELECT id, text FROM orders ORDER BY id":      func(i int) string { return fmt.Sprintf("%d|order %d", i, i) },
		"SELECT id, text, name FROM named ORDER BY id": func(i int) string { return fmt.Sprintf("%d|order %d|customer %d", i, i, i%customers) },
	} {
		want := make([]string, o.next)
		for i := range want {
			want[i] = row(i)
		}
		if rows := table.Rows(query); !slices.Equal(want, rows) {
			t.Fatalf("%s: %d rows wanted, %d there, %d of them distinct", query, len(want), len(rows), len(slices.Compact(slices.Clone(rows))))
		}
	}
}

// joined begins the pipeline with a join: each order once, with the name of its customer. There are customers before there
// is an order, and none comes later.
func (p *project) joined(cli *stack.CLI, table *stack.Table) {
	p.t.Helper()
	producer := stack.NewProducer(p.t, "localhost"+port(p.ports["KAFKA_PORT"]), "customers", partitions)
	for i := range customers {
		producer.Send(int32(i%partitions), nil, fmt.Appendf(nil, `{"customer":%d,"name":"customer %d"}`, i, i))
	}
	producer.Flush()
	table.Exec("CREATE TABLE named (id UInt64, text String, name String) ENGINE = MergeTree ORDER BY id SETTINGS non_replicated_deduplication_window = 10000")
	said := cli.Apply(`
id: named
sources:
  orders: {kafka: {brokers: ["kafka:9092"], topic: orders}, dedup: {key: [id], window: 24h}}
  customers: {kafka: {brokers: ["kafka:9092"], topic: customers}}
join: {left: orders, right: customers, on: [{left: customer, right: customer}], window: 24h}
sink: {clickhouse: {addr: ["clickhouse:9000"], table: named}}
`)
	require.Contains(p.t, said, "exactly once")
}
