package control_test

import (
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	controlv1 "sluice/gen/sluice/control/v1"
	"sluice/libs/playground/nats/natstest"
)

// What the table guarantees is looked at again: it may be made anew, altered or given a view after the pipeline was applied.
func TestGuaranteeIsLookedAtAgain(t *testing.T) {
	s := newSite(t)
	s.topic("orders", 1, events(1)...)
	s.sql(ordersTable)
	require.Equal(t, controlv1.Guarantee_EXACTLY_ONCE, s.create(s.parse(orders)).Pipeline.GetGuarantee().GetLevel())
	becomes := func(level controlv1.Guarantee_Level, warning string) {
		t.Helper()
		require.Eventually(t, func() bool {
			st := s.status()
			warnings := strings.Join(st.GetWarnings(), "\n")
			return st.GetGuarantee().GetLevel() == level && strings.Contains(warnings, warning) && (warning == "") == (warnings == "")
		}, 30*time.Second, 100*time.Millisecond, "%s, %q", level, warning)
	}
	becomes(controlv1.Guarantee_EXACTLY_ONCE, "")

	s.sql("DROP TABLE DB.orders")
	s.sql(strings.Replace(ordersTable, "non_replicated_deduplication_window = 10000", "non_replicated_deduplication_window = 0", 1))
	becomes(controlv1.Guarantee_AT_LEAST_ONCE, "non_replicated_deduplication_window of "+s.db+".orders is 0")
	require.Contains(t, s.status().GetWarnings()[0], "For exactly once: ALTER TABLE")
	got, err := s.client.Get(t.Context(), &controlv1.GetRequest{Id: "orders"})
	require.NoError(t, err)
	require.Equal(t, controlv1.Guarantee_AT_LEAST_ONCE, got.GetPipeline().GetGuarantee().GetLevel())
	list, err := s.client.List(t.Context(), &controlv1.ListRequest{})
	require.NoError(t, err)
	require.Equal(t, controlv1.Guarantee_AT_LEAST_ONCE, list.GetPipelines()[0].GetGuarantee().GetLevel())
	time.Sleep(5 * quick.CheckEvery)
	require.Equal(t, 1, strings.Count(s.logs.String(), "no longer guarantees"), "told once")

	s.sql("ALTER TABLE DB.orders MODIFY SETTING non_replicated_deduplication_window = 100")
	becomes(controlv1.Guarantee_EXACTLY_ONCE, "the last 100 blocks are remembered, no longer 10000")
	s.sql("ALTER TABLE DB.orders MODIFY SETTING non_replicated_deduplication_window = 10000")
	becomes(controlv1.Guarantee_EXACTLY_ONCE, "")

	s.sql("CREATE TABLE DB.daily (event_id String) ENGINE = MergeTree ORDER BY event_id")
	s.sql("CREATE MATERIALIZED VIEW DB.mv TO DB.daily AS SELECT event_id FROM DB.orders")
	becomes(controlv1.Guarantee_AT_LEAST_ONCE, "the materialized view "+s.db+".mv writes to "+s.db+".daily")

	// Who applies it again is told, and has nothing to be warned of any more by the status.
	resp, err := s.client.Update(t.Context(), &controlv1.UpdateRequest{Pipeline: s.parse(orders)})
	require.NoError(t, err)
	require.Equal(t, controlv1.Guarantee_AT_LEAST_ONCE, resp.GetPipeline().GetGuarantee().GetLevel())
	becomes(controlv1.Guarantee_AT_LEAST_ONCE, "")
}

// A server that is away says nothing about its tables.
func TestGuaranteeStaysWhileClickHouseIsAway(t *testing.T) {
	s := newSite(t)
	s.topic("orders", 1, events(1)...)
	s.sql(ordersTable)
	door := natstest.NewProxy(t, s.ch)
	pipeline := s.parse(orders)
	pipeline.Sink.GetClickhouse().Addr = []string{door.Addr()}
	s.create(pipeline)
	door.Cut()
	said := s.logs.String()
	time.Sleep(6 * quick.CheckEvery)
	st := s.status()
	require.Equal(t, controlv1.Guarantee_EXACTLY_ONCE, st.GetGuarantee().GetLevel())
	require.Empty(t, st.GetWarnings())
	for line := range strings.Lines(strings.TrimPrefix(s.logs.String(), said)) {
		require.NotContains(t, line, "level=WARN")
		require.NotContains(t, line, "level=ERROR")
	}
	require.Contains(t, s.logs.String(), "look at a table", "it was looked at")
}
