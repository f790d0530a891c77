//go:build unix

package e2e

import (
	"fmt"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"sluice/e2e/internal/stack"
)

// One process with NATS embedded against the user's Kafka and ClickHouse: what it has acknowledged survives its kill,
// and an orderly stop ends with exit code 0.
func TestStandalone(t *testing.T) {
	const partitions = 3
	sluice, addrs := filepath.Join(bin(t), "sluice"), stack.FreeAddrs(t, 4)
	kafkaAddr, clickhouseAddr, grpcAddr, httpAddr := addrs[0], addrs[1], addrs[2], addrs[3]
	stack.NewProcess(t, "kafka", sluice, []string{"dev", "kafka", "--listen", kafkaAddr}, nil).Start()
	stack.NewProcess(t, "clickhouse", sluice, []string{"dev", "clickhouse", "--listen", clickhouseAddr}, nil).Start()
	standalone := stack.NewProcess(t, "standalone", sluice,
		[]string{"standalone", "--dir", t.TempDir(), "--grpc", grpcAddr, "--http", httpAddr}, nil)
	standalone.Start()
	stack.WaitListen(t, kafkaAddr)
	stack.WaitListen(t, clickhouseAddr)
	stack.WaitReady(t, "standalone", httpAddr)
	require.Subset(t, reflected(t, grpcAddr), []string{"sluice.control.v1.PipelineService", "sluice.stage.v1.StageService"})

	cli, table := stack.NewCLI(t, bin(t), grpcAddr), stack.OpenSQL(t, clickhouseAddr)
	table.Exec(`CREATE TABLE events (id String, n UInt64, text String) ENGINE = MergeTree ORDER BY id
		SETTINGS non_replicated_deduplication_window = 1000`)
	events := startStream(t, stack.NewProducer(t, kafkaAddr, "events", partitions), partitions)
	cli.Apply(fmt.Sprintf(`
id: events
source: {kafka: {brokers: ["%s"], topic: events}}
dedup: {key: [id], window: 24h}
sink: {clickhouse: {addr: ["%s"], table: events}}
batch: {max_delay: 50ms}
`, kafkaAddr, clickhouseAddr))
	for range 2 {
		n := table.Count("events")
		require.Eventually(t, func() bool { return table.Count("events") > n+1000 }, stack.Up, 50*time.Millisecond)
		standalone.Kill()
		standalone.Start()
	}
	n := table.Count("events")
	require.Eventually(t, func() bool { return table.Count("events") > n }, stack.Up, 50*time.Millisecond)
	stack.WaitReady(t, "standalone", httpAddr) // the rows may be of the one before; this one may not have begun to listen to signals
	require.Zero(t, standalone.Stop())
	standalone.Start()

	want := events.rows()
	cli.Wait("events", 2*time.Minute)
	requireRows(t, want, table.Rows("SELECT id, n, text FROM events"))
	status := cli.Status("events")
	require.EqualValues(t, len(want), status.RowsOut)
	require.EqualValues(t, events.sent.Load(), status.RecordsIn)
	require.Empty(t, cli.DeadLetters("events"))
	require.Zero(t, standalone.Stop())
}
