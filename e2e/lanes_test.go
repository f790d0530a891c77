//go:build unix

package e2e

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"sluice/e2e/internal/stack"
	"sluice/libs/playground/kafka/kafkatest"
)

// The lanes of running pipelines are changed, to more and to fewer, while events flow and processes are killed: nothing is lost, nothing is there
// twice, and keys of before are remembered.
func TestChangeLanes(t *testing.T) {
	const partitions = 4
	kafka := kafkatest.StartReal(t, kafkatest.Options{})
	s := stack.Run(t, bin(t))
	table := stack.OpenSQL(t, s.ClickHouseAddr)
	for _, name := range []string{"events", "every"} {
		table.Exec(`CREATE TABLE ` + name + ` (id String, n UInt64, text String) ENGINE = MergeTree ORDER BY id SETTINGS non_replicated_deduplication_window = 1000`)
	}
	events := startStream(t, stack.NewProducer(t, kafka.Addr(), "events", partitions), partitions)
	apply := func(id, dedup string, lanes int) stack.Result {
		t.Helper()
		return s.Run(fmt.Sprintf(`
id: %s
source: {kafka: {brokers: ["%s"], topic: events}}
%s
sink: {clickhouse: {addr: ["%s"], table: %s}}
batch: {max_delay: 50ms}
lanes: %d
`, id, kafka.Addr(), dedup, s.ClickHouseAddr, id, lanes), "apply", "-f", "-")
	}
	both := func(lanes int) {
		t.Helper()
		for id, dedup := range map[string]string{"events": "dedup: {key: [id], window: 24h}", "every": ""} {
			stack.Await(t, 2*time.Minute, fmt.Sprintf("%s takes %d lanes", id, lanes), func() (bool, any) {
				r := apply(id, dedup, lanes)
				if r.Code != 0 {
					require.Contains(t, r.Stderr, "is not finished", "nothing else refuses a change of lanes")
				}
				return r.Code == 0, r
			})
		}
	}
	// settled waits until the lanes of before are gone and so many work.
	settled := func(lanes int) {
		t.Helper()
		for id, stages := range map[string][]string{"events": {"dedup", "sink"}, "every": {"sink"}} {
			stack.Await(t, 2*time.Minute, fmt.Sprintf("%s has %d lanes", id, lanes), func() (bool, any) {
				status := s.Status(id)
				ok := status.State == "RUNNING"
				for _, stage := range stages {
					owned := 0
					for _, n := range status.Owners(stage) {
						owned += n
					}
					ok = ok && owned == lanes
				}
				return ok, status
			})
		}
	}
	both(4)
	settled(4)
	events.more(t, 4000)

	both(7)
	began := time.Now()
	settled(7)
	t.Logf("4 to 7 lanes took %s", time.Since(began).Round(10*time.Millisecond))
	events.more(t, 2000)

	both(2)
	for _, name := range []string{"dedup", "ingestor", "sink", "control"} {
		s.Service(name).Kill()
		events.more(t, 200)
		s.Service(name).Start()
	}
	s.WaitReady("control")
	both(3) // as soon as it may
	s.NATS.Kill()
	events.more(t, 1000)
	s.NATS.Start()
	stack.Await(t, 2*time.Minute, "control has NATS back", func() (bool, any) {
		r := s.Run("", "status", "events")
		return r.Code == 0, r
	})
	settled(3)
	events.more(t, 2000)

	want := events.rows()
	for _, id := range []string{"events", "every"} {
		s.Wait(id, 2*time.Minute)
		require.Empty(t, s.DeadLetters(id))
	}
	requireRows(t, want, table.Rows("SELECT id, n, text FROM events"))
	sent := int(events.sent.Load())
	require.Equal(t, []string{fmt.Sprintf("%d|%d", sent, sent)}, table.Rows("SELECT count(), uniqExact(n) FROM every"), "a pipeline without dedup has each event once, too")
	status := s.Calm("events")
	require.EqualValues(t, sent, status.RecordsIn)
	require.EqualValues(t, len(want), status.RowsOut)
	require.EqualValues(t, sent-len(want), status.Duplicates)
	require.Zero(t, status.Lag)
	for _, id := range []string{"events", "every"} {
		r := s.Run("", "verify", id)
		require.Zero(t, r.Code, "%s%s", r.Stdout, r.Stderr)
		require.Contains(t, strings.ToLower(r.Stdout), "equal")
	}
}
