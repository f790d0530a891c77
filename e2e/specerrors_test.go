//go:build unix

package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"sluice/e2e/internal/stack"
	"sluice/libs/playground/kafka/kafkatest"
)

// Whatever is wrong with a specification is said at once, with the place, and nothing is made.
func TestSpecErrors(t *testing.T) {
	kafka := kafkatest.StartFake(t)
	s := stack.Run(t, bin(t))
	table := stack.OpenSQL(t, s.ClickHouseAddr)
	table.Exec(`CREATE TABLE orders (id UInt64, at DateTime64(3), total Decimal(18, 2), twice UInt64 MATERIALIZED id * 2)
		ENGINE = MergeTree ORDER BY id SETTINGS non_replicated_deduplication_window = 1000`)
	stack.NewProducer(t, kafka, "orders", 1)
	path := filepath.Join(t.TempDir(), "p.yaml")
	for _, c := range []struct {
		name, spec string
		says       []string
	}{
		{"reading", `id: orders
sorce: {kafka: {brokers: [a:1], topic: orders}}
dedup:
  key: [id]
  window: soon
  keep: ALWAYS
sink:
  clickhouse:
    addr: ["b:1"]
    tabel: orders
lanes: many
`, []string{path + ":2:1", "sorce", path + ":5:11", path + ":6:9", "ALWAYS", path + ":10:5", "tabel", path + ":11:8"}},
		{"not YAML", "id: [a\n", []string{path}},
		{"meaning", `id: Orders!
source: {kafka: {brokers: [localhost], topic: "or ders", start: yesterday}}
dedup: {key: [id, id], window: 24h, keep: LATEST}
sink: {clickhouse: {addr: ["localhost:9000"], table: orders, settings: {async_insert: "1"}}}
batch: {max_delay: 1ms}
`, []string{"id: Orders!", "source.kafka.brokers[0]", "source.kafka.topic", "source.kafka.start", "yesterday", "dedup.key",
			"dedup.version", "sink.clickhouse.settings", "async_insert", "batch.max_delay"}},
		{"nothing", "{}", []string{"id", "source", "sink"}},
		{"the live parts", fmt.Sprintf(`id: orders
source: {kafka: {brokers: ["%s"], topic: no-such-topic}}
dedup: {key: [id], window: 1h}
sink: {clickhouse: {addr: ["%s"], table: orders}}
columns: [{name: absent, from: x}, {name: twice, from: y}]
`, kafka, s.ClickHouseAddr), []string{"source.kafka.topic", "no-such-topic", "columns[0].name", "absent", "columns[1].name", "twice"}},
		{"no table", fmt.Sprintf(`id: orders
source: {kafka: {brokers: ["%s"], topic: orders}}
sink: {clickhouse: {addr: ["%s"], table: no_such_table}}
`, kafka, s.ClickHouseAddr), []string{"sink.clickhouse.table", "no_such_table", "create_table"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			require.NoError(t, os.WriteFile(path, []byte(c.spec), 0o600))
			r := s.Run("", "apply", "-f", path)
			require.Equal(t, usage, r.Code, r.Stderr)
			for _, part := range c.says {
				if !strings.Contains(r.Stderr, part) {
					t.Errorf("%q is not said in:\n%s", part, r.Stderr)
				}
			}
			require.Empty(t, r.Stdout)
		})
	}
	require.NotContains(t, s.Do("list"), "orders")
}
