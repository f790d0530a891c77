package clickhouse

import (
	"errors"
	"fmt"
	"io"
	"testing"
	"time"

	driver "github.com/ClickHouse/clickhouse-go/v2"
	"github.com/stretchr/testify/require"

	controlv1 "sluice/gen/sluice/control/v1"
)

func TestClassify(t *testing.T) {
	server := func(code int, message string) error {
		return fmt.Errorf("wrapped: %w", &ServerError{Code: code, Message: message})
	}
	for _, c := range []struct {
		err  error
		want Class
	}{
		{io.ErrUnexpectedEOF, Ambiguous},
		{errors.New("anything else"), Ambiguous},
		{server(319, "unknown status"), Ambiguous},
		{server(394, "cancelled"), Ambiguous},
		{server(252, "Too many parts (300)"), Retry},
		{server(252, "Too many partitions for single INSERT block (more than 100)"), Split},
		{server(241, "Memory limit"), Retry},
		{server(60, "Unknown table"), Retry},
		{server(999999, "never heard of"), Retry},
		{server(469, "Constraint"), RejectData},
		{server(469, "Constraint: while pushing to view db.mv"), Schema},
		{server(16, "No such column"), Schema},
		{&ChangedError{[]string{"n: was Int8, is String"}, server(6, "cannot parse")}, Schema},
		{&ConfigError{"sink.clickhouse.password", io.EOF}, Retry},
		{fmt.Errorf("x: %w", &driver.Exception{Code: 469, Message: "Constraint"}), RejectData},
	} {
		require.Equal(t, c.want, Classify(c.err), "%v", c.err)
		require.NotEmpty(t, Explain(c.err))
	}
}

func TestSettingsByVersion(t *testing.T) {
	names := func(v Version) string {
		settings, err := insertSettings(v, "T", map[string]string{"max_threads": "2"})
		require.NoError(t, err)
		out := ""
		for _, s := range settings {
			require.True(t, s.Important, "a server that does not know a setting must say so")
			out += s.Key + "=" + s.Value + " "
		}
		return out
	}
	require.Equal(t, "max_threads=2 receive_timeout=30 insert_distributed_sync=1 ", names(Version{20, 8}))
	require.Equal(t, "max_threads=2 async_insert=0 receive_timeout=30 insert_deduplication_token=T insert_deduplicate=1 deduplicate_blocks_in_dependent_materialized_views=1 insert_distributed_sync=1 ", names(Version{22, 2}))
	require.Equal(t, "max_threads=2 async_insert=0 receive_timeout=30 insert_deduplication_token=T insert_deduplicate=1 deduplicate_blocks_in_dependent_materialized_views=1 deduplicate_insert=enable distributed_foreground_insert=1 ", names(Version{26, 5}))
	err := CheckSettings(map[string]string{"async_insert": "1", "deduplicate_insert": "disable", "max_threads": "1"})
	require.ErrorContains(t, err, "sink.clickhouse.settings.async_insert: 1: cannot be changed")
	require.ErrorContains(t, err, "sink.clickhouse.settings.deduplicate_insert: disable: cannot be changed")
}

func TestTableName(t *testing.T) {
	for _, c := range []struct{ database, table, want string }{
		{"", "t", "default.t"}, {"", "d.t", "d.t"}, {"x", "d.t", "x.d.t"}, {"", ".t", "default..t"},
	} {
		require.Equal(t, c.want, TableName(&controlv1.ClickHouseSink{Database: c.database, Table: c.table}).String())
	}
	require.Equal(t, "`a\\`b\\\\`.`c`", Name{"a`b\\", "c"}.Quoted())
}

func TestCoverage(t *testing.T) {
	require.InDelta(t, (10000 * 500 * time.Millisecond / 3).Seconds(), Coverage(10000, 4, 500*time.Millisecond).Seconds(), 1)
	require.Equal(t, time.Duration(0), Coverage(0, 4, time.Second))
	require.Greater(t, Coverage(1, 1, time.Second), 1000*time.Hour, "a single lane uses its own window only when it goes on")
}

func TestReplicatedAndDistributedGuarantees(t *testing.T) {
	new := Version{25, 8}
	replicated := &Table{Name: Name{"d", "t"}, Exists: true, Server: new, Engine: "ReplicatedMergeTree", Window: 10000, Addresses: 3}
	require.Equal(t, controlv1.Guarantee_EXACTLY_ONCE, GuaranteeOf(replicated).GetLevel())
	off := &Table{Name: Name{"d", "t"}, Exists: true, Server: new, Engine: "SharedMergeTree"}
	require.Equal(t, "ALTER TABLE `d`.`t` MODIFY SETTING replicated_deduplication_window = 10000", GuaranteeOf(off).GetRemedy())
	distributed := &Table{Exists: true, Server: new, Engine: "Distributed", Target: replicated}
	g := GuaranteeOf(distributed)
	require.Equal(t, controlv1.Guarantee_AT_LEAST_ONCE, g.GetLevel())
	require.Contains(t, g.GetReason(), "foreground")
	require.Contains(t, g.GetReason(), "remembers the last 10000 blocks")
	require.Contains(t, GuaranteeOf(&Table{Name: Name{"d", "t"}, Server: new}).GetRemedy(), "create_table: true")
	require.Equal(t, []string{"c", "d", "t", "rand("}, engineArgs("Distributed('c', 'd', 't', rand())"))
}

func TestViewTarget(t *testing.T) {
	v := Name{"d", "v"}
	for create, want := range map[string]string{
		"CREATE MATERIALIZED VIEW d.v TO e.t (`id` UInt64) AS SELECT 1":               "e.t",
		"CREATE MATERIALIZED VIEW d.v TO `odd name` AS SELECT 1":                      "d.odd name",
		"CREATE MATERIALIZED VIEW d.v (`id` UInt64) ENGINE = Memory AS SELECT a TO b": "",
	} {
		got, ok := viewTarget(create, v)
		require.Equal(t, want != "", ok, "a view without TO has a table of its own")
		if ok {
			require.Equal(t, want, got.String())
		}
	}
}
