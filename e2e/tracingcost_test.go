//go:build unix && tracingcost

package e2e

import (
	"fmt"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"sluice/e2e/internal/stack"
)

var cpuSeconds = regexp.MustCompile(`(?m)^process_cpu_seconds_total (\S+)$`)

// TestTracingCost: the same events through two processes, one of which sends spans to a real Jaeger, by turns in one run. The figure
// to hold is 2 % of the CPU; what is tolerated here is more, for what else runs on the machine. It takes a minute, so it is asked for:
// go test -tags tracingcost -run TestTracingCost ./e2e.
func TestTracingCost(t *testing.T) {
	const events, rounds, tolerated = 200_000, 3, 1.25
	jaeger := stack.StartJaeger(t)
	sluice, addrs := filepath.Join(bin(t), "sluice"), stack.FreeAddrs(t, 2)
	kafkaAddr, clickhouseAddr := addrs[0], addrs[1]
	stack.NewProcess(t, "kafka", sluice, []string{"dev", "kafka", "--listen", kafkaAddr}, nil).Start()
	stack.NewProcess(t, "clickhouse", sluice, []string{"dev", "clickhouse", "--listen", clickhouseAddr}, nil).Start()
	stack.WaitListen(t, kafkaAddr)
	stack.WaitListen(t, clickhouseAddr)
	type side struct {
		name, http string
		cli        *stack.CLI
		process    *stack.Process
		seconds    []float64
	}
	var sides []*side
	for name, env := range map[string][]string{"off": nil, "on": {"OTEL_EXPORTER_OTLP_ENDPOINT=" + jaeger.Endpoint, "OTEL_EXPORTER_OTLP_PROTOCOL=grpc"}} {
		a := stack.FreeAddrs(t, 2)
		p := stack.NewProcess(t, "standalone-"+name, sluice, []string{"standalone", "--dir", t.TempDir(), "--grpc", a[0], "--http", a[1]}, env)
		p.Start()
		stack.WaitReady(t, p.Name, a[1])
		sides = append(sides, &side{name: name, http: a[1], cli: stack.NewCLI(t, bin(t), a[0]), process: p})
	}
	slices.SortFunc(sides, func(a, b *side) int { return strings.Compare(a.name, b.name) })
	table := stack.OpenSQL(t, clickhouseAddr)
	producer := stack.NewProducer(t, kafkaAddr, "load", 4)
	filler := strings.Repeat("x", 120)
	for id := range events {
		producer.Send(int32(id%4), nil, fmt.Appendf(nil, `{"id":%d,"kind":"click","user":"user-%d","n":%d,"text":"%s"}`, id, id%1000, id*7, filler))
	}
	producer.Flush()
	cpu := func(s *side) float64 {
		m := cpuSeconds.FindStringSubmatch(scrape(t, s.http))
		require.NotNil(t, m)
		n, err := strconv.ParseFloat(m[1], 64)
		require.NoError(t, err)
		return n
	}
	for round := range rounds {
		for _, s := range sides {
			id := fmt.Sprintf("%s-%d", s.name, round)
			table.Exec("CREATE TABLE `" + id + "` (id UInt64, kind String, user String, n UInt64, text String) ENGINE = MergeTree ORDER BY id SETTINGS non_replicated_deduplication_window = 1000")
			before := cpu(s)
			s.cli.Apply(fmt.Sprintf(`
id: %[1]s
source: {kafka: {brokers: ["%[2]s"], topic: load}}
dedup: {key: [id], window: 1h}
sink: {clickhouse: {addr: ["%[3]s"], table: %[1]s}}
`, id, kafkaAddr, clickhouseAddr))
			s.cli.Wait(id, 3*time.Minute)
			s.seconds = append(s.seconds, cpu(s)-before)
			require.Equal(t, events, table.Count("`"+id+"`"))
			require.Zero(t, s.cli.Run("", "delete", id).Code)
			table.Exec("DROP TABLE `" + id + "`")
		}
	}
	spans := len(jaeger.Traces("sluice-sink", map[string]string{"sluice.pipeline": "on-0"}))
	require.Positive(t, spans, "the traced side was traced")
	total := map[string]float64{}
	for _, s := range sides {
		for _, seconds := range s.seconds {
			total[s.name] += seconds
		}
		t.Logf("tracing %s: %.2f CPU µs an event, rounds of %.2f s", s.name, total[s.name]*1e6/events/rounds, s.seconds)
		require.NotContains(t, s.process.Log(), "slow consumer")
	}
	t.Logf("tracing costs %.1f %% of the CPU", 100*(total["on"]/total["off"]-1))
	require.Less(t, total["on"], tolerated*total["off"])
}
