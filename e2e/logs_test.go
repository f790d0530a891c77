//go:build unix

package e2e

import (
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"sluice/e2e/internal/stack"
)

// TestLogs counts the lines of all services, with a pipeline that drops duplicates and one with a join: while all is well there are none, an
// outage is told in a few, however often something is tried meanwhile, and a process that is killed costs those of its start.
func TestLogs(t *testing.T) {
	const outage = 15 * time.Second // many times the pause between two attempts
	sluice, addr := filepath.Join(bin(t), "sluice"), stack.FreeAddrs(t, 1)[0]
	kafka := stack.NewProcess(t, "kafka", sluice, []string{"dev", "kafka", "--listen", addr}, nil)
	kafka.Start()
	stack.WaitListen(t, addr)
	jaeger := stack.StartJaeger(t)
	s := stack.Run(t, bin(t), "OTEL_EXPORTER_OTLP_ENDPOINT="+jaeger.Endpoint, "OTEL_EXPORTER_OTLP_PROTOCOL=grpc")
	services := append(slices.Clone(stack.Services), "join")
	s.Scale("join", "join")
	table := stack.OpenSQL(t, s.ClickHouseAddr)
	for _, name := range []string{"events", "named"} {
		table.Exec(`CREATE TABLE ` + name + ` (id UInt32, name String DEFAULT '') ENGINE = MergeTree ORDER BY id SETTINGS non_replicated_deduplication_window = 1000`)
	}
	producer := stack.NewProducer(t, addr, "events", 2)
	names := stack.NewProducer(t, addr, "names", 2)
	for i := range 10 {
		names.Send(int32(i%2), nil, fmt.Appendf(nil, `{"one":%d,"name":"name %d"}`, i, i))
	}
	names.Flush()
	s.Apply(fmt.Sprintf(`
id: events
source: {kafka: {brokers: ["%s"], topic: events}}
dedup: {key: [id], window: 1h}
sink: {clickhouse: {addr: ["%s"], table: events}}
batch: {max_delay: 20ms}
lanes: 2
`, addr, s.ClickHouseAddr))
	s.Apply(fmt.Sprintf(`
id: named
sources:
  events: {kafka: {brokers: ["%[1]s"], topic: events}, dedup: {key: [id], window: 1h}}
  names: {kafka: {brokers: ["%[1]s"], topic: names}}
join: {left: events, right: names, on: [{left: one, right: one}], window: 1h}
sink: {clickhouse: {addr: ["%[2]s"], table: named}}
batch: {max_delay: 20ms}
lanes: 2
`, addr, s.ClickHouseAddr))
	id := 0
	send := func(n int) {
		for range n {
			id++
			producer.Send(int32(id%2), nil, fmt.Appendf(nil, `{"id":%d,"one":%d}`, id, id%10))
		}
		producer.Flush()
	}
	settled := func() {
		t.Helper()
		for _, name := range []string{"events", "named"} {
			s.Wait(name, 2*stack.Up)
			stack.Await(t, stack.Up, fmt.Sprintf("%d rows in %s", id, name), func() (bool, any) {
				n := table.Count(name)
				return n == id, fmt.Sprint(n, " ", s.Run("", "status", name).Stdout)
			})
		}
	}
	// during is what the services print while events flow for some time.
	read := map[string]int{}
	during := func(d time.Duration, flow func()) map[string][]string {
		t.Helper()
		for began := time.Now(); time.Since(began) < d; time.Sleep(100 * time.Millisecond) {
			flow()
		}
		lines := map[string][]string{}
		for _, name := range services {
			text := s.Service(name).Log()
			for line := range strings.Lines(text[read[name]:]) {
				lines[name] = append(lines[name], line)
			}
			read[name] = len(text)
		}
		return lines
	}
	flow := func() { send(20) }
	none := func() {}
	send(100)
	settled()
	start := during(0, none)
	for name, lines := range start {
		require.Less(t, len(lines), 12, "%s starts: %s", name, lines)
	}

	// A machine that stands still for longer than a lease is told of, too, and not what this is about: it would not do so three times.
	for round := range 3 {
		lines := during(outage, flow)
		if round < 2 && strings.Contains(fmt.Sprint(lines), "lost the leases") {
			continue
		}
		require.Empty(t, lines, "while all is well")
		break
	}

	s.ClickHouse.Kill()
	few := func(what string, told ...string) {
		t.Helper()
		lines := during(outage, none)
		t.Logf("%s: %v", what, lines)
		for name, lines := range lines {
			require.LessOrEqual(t, len(lines), 8, "%s: %s prints %s", what, name, lines)
		}
		for _, name := range told {
			require.NotEmpty(t, lines[name], "%s: %s says nothing", what, name)
		}
	}
	send(100)
	few("ClickHouse is away", "sink")
	s.ClickHouse.Start()
	settled()
	few("ClickHouse is back", "sink")
	require.Regexp(t, `"the lane waits".* trace_id=[0-9a-f]{32}`, s.Service("sink").Log(), "the trace of the block that waits")

	s.NATS.Kill()
	send(100)
	few("NATS is away", services...)
	s.NATS.Start()
	settled()
	few("NATS is back", services...)

	for _, name := range []string{"sink", "join"} {
		s.Service(name).Kill()
		send(100)
		s.Service(name).Start()
	}
	settled()
	for name, lines := range during(0, none) {
		require.Less(t, len(lines), 12, "%s, others start: %s", name, lines)
	}

	kafka.Kill()
	few("Kafka is away", "ingestor")
	for _, name := range services {
		require.NotContains(t, s.Service(name).Log(), `"id":`, "an event is in the log")
		require.NotContains(t, s.Service(name).Log(), "outbound buffer", "the client's words for a connection that is away")
	}
}
