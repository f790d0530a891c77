//go:build unix

package e2e

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"sluice/e2e/internal/stack"
)

// Any order of starting works: what is not there yet is waited for, visibly, and nothing ends.
func TestStartOrder(t *testing.T) {
	kafkaAddr := stack.FreeAddrs(t, 1)[0]
	kafka := stack.NewProcess(t, "kafka", filepath.Join(bin(t), "sluice"),
		[]string{"dev", "kafka", "--listen", kafkaAddr, "--dir", t.TempDir()}, nil)
	s := stack.New(t, bin(t))
	spec := fmt.Sprintf(`
id: patient
source: {kafka: {brokers: ["%s"], topic: patient}}
dedup: {key: [id], window: 1h}
sink: {clickhouse: {addr: ["%s"], table: patient}}
batch: {max_delay: 50ms}
`, kafkaAddr, s.ClickHouseAddr)

	// The services come first. They live, are not ready, and say that they have no NATS.
	s.StartServices()
	for _, name := range stack.Services {
		require.Eventually(t, func() bool { return s.Alive(name) }, stack.Up, 50*time.Millisecond, "%s is not alive", name)
		require.False(t, s.Ready(name), "%s is ready without NATS", name)
	}
	stack.Await(t, stack.Up, "list says that NATS is missing", func() (bool, any) {
		r := s.Run("", "list")
		return r.Code == unavailable && strings.Contains(r.Stderr, "NATS"), r
	})

	// NATS comes; Kafka and ClickHouse are named by apply, both at once.
	s.NATS.Start()
	for _, name := range stack.Services {
		s.WaitReady(name)
	}
	r := s.Run(spec, "apply", "-f", "-")
	require.Equal(t, unavailable, r.Code, r.Stderr)
	require.Contains(t, r.Stderr, kafkaAddr)
	require.Contains(t, r.Stderr, s.ClickHouseAddr)

	kafka.Start()
	s.ClickHouse.Start()
	stack.WaitListen(t, s.ClickHouseAddr)
	table := stack.OpenSQL(t, s.ClickHouseAddr)
	table.Exec(`CREATE TABLE patient (id UInt32) ENGINE = MergeTree ORDER BY id SETTINGS non_replicated_deduplication_window = 1000`)
	producer := stack.NewProducer(t, kafkaAddr, "patient", 2)
	var want []string
	send := func(n int) {
		for range n {
			producer.Send(int32(len(want)%2), nil, fmt.Appendf(nil, `{"id":%d}`, len(want)))
			want = append(want, fmt.Sprint(len(want)))
		}
		producer.Flush()
	}
	send(100)
	s.Apply(spec)
	s.Wait("patient", 2*time.Minute)

	// Everything stops, in good order. The services come back first and NATS last; Kafka and ClickHouse not yet.
	for _, name := range stack.Services {
		require.Zero(t, s.Service(name).Stop(), name)
	}
	send(100) // waits in Kafka
	require.Zero(t, kafka.Stop())
	require.Zero(t, s.ClickHouse.Stop())
	require.Zero(t, s.NATS.Stop())
	s.StartServices()
	for _, name := range stack.Services {
		require.Eventually(t, func() bool { return s.Alive(name) }, stack.Up, 50*time.Millisecond, "%s is not alive", name)
	}
	s.NATS.Start()
	shows := func(what string) {
		t.Helper()
		stack.Await(t, 2*time.Minute, "the status shows that "+what+" is away", func() (bool, any) {
			r := s.Run("", "status", "patient", "-o", "json")
			return r.Code == 0 && strings.Contains(r.Stdout, `"DEGRADED"`) && strings.Contains(r.Stdout, what), r
		})
	}
	shows(kafkaAddr)
	require.Equal(t, timedOut, s.Run("", "wait", "patient", "--timeout", "100ms").Code, "an unknown lag is not 0")
	kafka.Start()
	shows(s.ClickHouseAddr)
	s.ClickHouse.Start()
	s.Wait("patient", 2*time.Minute)
	requireRows(t, want, table.Rows("SELECT id FROM patient"))
	stack.Await(t, 2*time.Minute, "all is well again", func() (bool, any) {
		status := s.Status("patient")
		return status.State == "RUNNING" && len(status.Errors) == 0, status
	})
	for _, p := range s.Processes() {
		require.True(t, p.Running(), "%s has ended by itself", p.Name)
	}
}
