package spec_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/testing/protocmp"
	"google.golang.org/protobuf/types/known/durationpb"

	controlv1 "sluice/gen/sluice/control/v1"
	"sluice/libs/spec"
)

const minimal = `id: user-events
source: {kafka: {brokers: [localhost:9092], topic: user-events}}
dedup: {key: [event_id], window: 24h}
sink: {clickhouse: {addr: [localhost:9000], table: user_events}}
`

const full = `id: orders
source:
  kafka:
    brokers: [a:9093, "[::1]:9093"]
    topic: orders
    start: 2026-01-31T00:00:00Z
    isolation: READ_UNCOMMITTED
    tls: {ca_file: /ca.pem, cert_file: /c.pem, key_file: /k.pem}
    sasl: {mechanism: SCRAM_SHA_512, username: u, password: {env: KAFKA_PASSWORD}}
dedup: {key: [tenant, $.order.id], window: 7d, keep: LATEST, version: updated_at, time: at, missing_key: PASS}
sink:
  clickhouse:
    addr: [localhost:9000, localhost:9001]
    table: shop.orders
    password: {file: /run/secrets/ch}
    settings: {max_threads: "2"}
    create_table: true
columns:
  - {name: city, from: user.address.city, type: String}
  - {name: at_ms, from: $timestamp}
  - {name: trace, from: $header.trace-id}
lanes: 8
batch: {rows: 1000, bytes: 1Mi, max_delay: 20ms}
`

const join = `id: orders-enriched
sources:
  orders:
    kafka: {brokers: [localhost:9092], topic: orders}
    dedup: {key: [order_id], window: 1h}
    time: $.at
  users: {kafka: {brokers: [localhost:9092], topic: users}}
join:
  left: orders
  right: users
  on: [{left: user_id, right: id}, {left: $.shop.id, right: shop}]
  window: 1h
  type: LEFT
sink: {clickhouse: {addr: [localhost:9000], table: orders_enriched}}
columns:
  - {name: order_at, from: orders.at}
  - {name: user_offset, from: users.$offset}
`

func parse(t *testing.T, text string) *controlv1.Pipeline {
	t.Helper()
	p, err := spec.Parse("p.yaml", []byte(text))
	require.NoError(t, err)
	return p
}

func TestParseAndValidate(t *testing.T) {
	for name, text := range map[string]string{"minimal": minimal, "full": full} {
		t.Run(name, func(t *testing.T) {
			p := parse(t, text)
			require.NoError(t, spec.Validate(p))
			require.NoError(t, spec.Validate(spec.WithDefaults(p)))
		})
	}
}

func TestParseJSON(t *testing.T) {
	text := "{\r\n\t\"id\": \"a\",\n\t\"lanes\": 2, \"batch\": {\"bytes\": \"1024\", \"maxDelay\": \"1.500s\"},\n" +
		"\t\"columns\": [{\"name\": \"\\ud83d\\ude00\\/\u2028\\ud800\"}]}"
	p := parse(t, text)
	require.Equal(t, "a", p.Id)
	require.EqualValues(t, 1024, p.Batch.Bytes)
	require.Equal(t, "1.5s", p.Batch.MaxDelay.AsDuration().String())
	require.Equal(t, "😀/\u2028\ufffd", p.Columns[0].Name)
}

// TestParseErrors also shows that several errors come at once.
func TestParseErrors(t *testing.T) {
	for _, c := range []struct{ name, text, want string }{
		{"unknown key", "id: a\nsoruce: {}\n", "p.yaml:2:1 unknown field \"soruce\""},
		{"nested unknown key", "id: a\nsource:\n  kafka: {broker: [x:1]}\n", "p.yaml:3:11 unknown field \"broker\""},
		{"repeated key", "id: a\nlanes: 2\nid: b\n", "p.yaml:3:1 key \"id\" again; it is already on line 1"},
		{"repeated key in other spelling", "batch:\n  max_delay: 1s\n  maxDelay: 2s\n", "p.yaml:3:3 key \"maxDelay\" again"},
		{"repeated setting", "sink: {clickhouse: {settings: {a: 1,\n a: 2}}}\n", "p.yaml:2:2 key \"a\" again"},
		{"null text", "id: null\n", "p.yaml:1:5 null is not a value here"},
		{"duration", "dedup:\n  window: 1 day\n", "p.yaml:2:11 duration \"1 day\" is not a number with a unit: write 500ms, 30s, 24h or 7d"},
		{"enum", "dedup: {keep: NEWEST}\n", "p.yaml:1:15 unknown enum value \"NEWEST\", expected one of FIRST, LATEST"},
		{"type", "lanes: many\n", "p.yaml:1:8 invalid integer"},
		{"syntax", "id: [\n", "p.yaml: yaml: line 1"},
		{"empty", "# nothing\n", "p.yaml: the specification is empty"},
		{"two documents", "id: a\n---\nid: b\n", "p.yaml:2:1 a second document"},
		{"list", "- id: a\n", "expected fields for sluice.control.v1.Pipeline, got sequence"},
		{"line separator", "id: a\nlanes: 1\u2028\n", "p.yaml:2:9 a line separator"},
		{"unknown key in a source", "sources:\n  orders: {kafk: {}}\n", "p.yaml:2:12 unknown field \"kafk\""},
		{"repeated key in a source", "sources:\n  orders:\n    time: a\n    time: b\n", "p.yaml:4:5 key \"time\" again"},
		{"repeated source", "sources:\n  orders: {}\n  orders: {}\n", "p.yaml:3:3 key \"orders\" again"},
		{"null text in a source", "sources: {orders: {time: null}}\n", "null is not a value here"},
		{"no value at the end", " ?  8", "p.yaml:2:1 expected"},
		{"oneof twice", "sink: {clickhouse: {password: {env: A, file: b}}}\n", "already set for oneof"},
	} {
		t.Run(c.name, func(t *testing.T) {
			p, err := spec.Parse("p.yaml", []byte(c.text))
			require.Nil(t, p)
			require.ErrorContains(t, err, c.want)
		})
	}
	_, err := spec.Parse("p.yaml", []byte("ids: a\nid: null\nlanes: x\nbatch: {max_delay: soon}\n"))
	for _, position := range []string{":1:1 ", ":2:5 ", ":3:8 ", ":4:20 "} {
		require.ErrorContains(t, err, "p.yaml"+position)
	}
}

func TestParseDoesNotGrowWithSize(t *testing.T) {
	_, err := spec.Parse("big", []byte(strings.Repeat("#", 5<<20)))
	require.ErrorContains(t, err, "more than a specification can have")
}

func TestWithDefaults(t *testing.T) {
	p := parse(t, minimal)
	before := parse(t, minimal)
	got := spec.WithDefaults(p)
	require.Empty(t, cmp.Diff(before, p, protocmp.Transform()), "the argument stays as it is")

	want := parse(t, `id: user-events
source: {kafka: {brokers: [localhost:9092], topic: user-events, start: EARLIEST, isolation: READ_COMMITTED, group: sluice-user-events}}
dedup: {key: [event_id], window: 24h, keep: FIRST, missing_key: DEAD_LETTER}
sink: {clickhouse: {addr: [localhost:9000], database: default, table: user_events, username: default}}
lanes: 4
batch: {rows: 1000000, bytes: 67108864, max_delay: 500ms}
`)
	require.Empty(t, cmp.Diff(want, got, protocmp.Transform()))
	require.Empty(t, cmp.Diff(got, spec.WithDefaults(got), protocmp.Transform()), "twice is once")

	got = spec.WithDefaults(parse(t, full))
	require.Equal(t, "shop", got.Sink.Clickhouse.Database)
	require.Equal(t, "orders", got.Sink.Clickhouse.Table)
	require.Equal(t, []string{"tenant", "order.id"}, got.Dedup.Key)
	require.Empty(t, cmp.Diff(got, spec.WithDefaults(got), protocmp.Transform()), "twice is once")
	require.NotNil(t, spec.WithDefaults(nil))

	got = spec.WithDefaults(parse(t, join))
	require.Empty(t, cmp.Diff(got, spec.WithDefaults(got), protocmp.Transform()), "twice is once")
	require.Equal(t, "sluice-orders-enriched-users", got.Sources["users"].Kafka.Group)
	require.Equal(t, "at", got.Sources["orders"].Time)
	require.Empty(t, cmp.Diff(parse(t, `join:
  {left: orders, right: users, on: [{left: user_id, right: id}, {left: shop.id, right: shop}], window: 1h,
   kind: INTERVAL, type: LEFT, grace: 10s, idle: 30s, memory: 256Mi, max_future: 1h}
`).Join, got.Join, protocmp.Transform()))

	named := spec.WithDefaults(parse(t, "columns: [{name: a}]\nsink: {clickhouse: {database: d, table: x.y}}\n"))
	require.Equal(t, "a", named.Columns[0].From)
	require.Equal(t, "x.y", named.Sink.Clickhouse.Table, "a named database makes the dot part of the table's name")
}

func TestMarshal(t *testing.T) {
	for name, text := range map[string]string{"minimal": minimal, "full": full, "join": join} {
		t.Run(name, func(t *testing.T) {
			p := spec.WithDefaults(parse(t, text))
			data, err := spec.Marshal(p)
			require.NoError(t, err)
			require.Empty(t, cmp.Diff(p, parse(t, string(data)), protocmp.Transform()))
			golden(t, "marshal_"+name+".yaml", string(data))
		})
	}
}

func TestStages(t *testing.T) {
	p := parse(t, minimal)
	require.Equal(t, []string{"ingest", "dedup", "sink"}, spec.Stages(p))
	require.Empty(t, spec.Upstream(p, spec.StageIngest))
	require.Equal(t, spec.StageIngest, spec.Upstream(p, spec.StageDedup))
	require.Equal(t, spec.StageDedup, spec.Upstream(p, spec.StageSink))
	p.Dedup = nil
	require.Equal(t, []string{"ingest", "sink"}, spec.Stages(p))
	require.Equal(t, spec.StageIngest, spec.Upstream(p, spec.StageSink))
	require.Empty(t, spec.Upstream(p, spec.StageDedup))
}

func TestStagesOfJoin(t *testing.T) {
	p := spec.WithDefaults(parse(t, join))
	require.Equal(t, []string{"ingest", "dedup", "join", "sink"}, spec.Stages(p))
	require.Equal(t, spec.StageJoin, spec.Upstream(p, spec.StageSink))
	require.Equal(t, spec.StageDedup, spec.Upstream(p, spec.StageJoin))
	p.Sources["orders"].Dedup = nil
	require.Equal(t, []string{"ingest", "join", "sink"}, spec.Stages(p))
	require.Equal(t, spec.StageIngest, spec.Upstream(p, spec.StageJoin))
	require.Empty(t, spec.Upstream(p, spec.StageDedup))
}

func TestBranches(t *testing.T) {
	p := spec.WithDefaults(parse(t, minimal))
	require.Equal(t, []spec.Branch{{Spec: p.Source, Dedup: p.Dedup}}, spec.Branches(p))

	p = spec.WithDefaults(parse(t, join))
	orders := spec.Branch{
		Source: "orders", Spec: p.Sources["orders"], Dedup: p.Sources["orders"].Dedup,
		JoinKey: []string{"user_id", "shop.id"}, Time: "at", Side: spec.Left, Relane: true,
	}
	users := spec.Branch{Source: "users", Spec: p.Sources["users"], JoinKey: []string{"id", "shop"}, Side: spec.Right}
	require.Equal(t, []spec.Branch{orders, users}, spec.Branches(p))
	b, ok := spec.BranchOf(p, "users")
	require.True(t, ok)
	require.Equal(t, users, b)
	_, ok = spec.BranchOf(p, "")
	require.False(t, ok)

	p.Sources["orders"].Dedup.Key = []string{"shop.id", "user_id"}
	require.True(t, spec.Branches(p)[0].Relane, "another order is another fingerprint")
	p.Sources["orders"].Dedup.Key = []string{"user_id", "shop.id"}
	require.False(t, spec.Branches(p)[0].Relane)
}

func TestColumnsOfSource(t *testing.T) {
	a, b, c := &controlv1.SchemaColumn{Name: "a", Source: "orders"}, &controlv1.SchemaColumn{Name: "b", Source: "users"}, &controlv1.SchemaColumn{Name: "c", Source: "orders"}
	schema := &controlv1.Schema{Columns: []*controlv1.SchemaColumn{a, b, c}}
	require.Equal(t, []*controlv1.SchemaColumn{a, c}, spec.Columns(schema, "orders"))
	require.Empty(t, spec.Columns(schema, ""))
}

func TestQualified(t *testing.T) {
	p := parse(t, join)
	for from, want := range map[string][2]string{
		"orders.amount": {"orders", "amount"}, "users.$.a.b": {"users", "a.b"}, "orders.$offset": {"orders", "$offset"},
		"amount": {}, "orders": {}, "orders.": {}, "shop.id": {}, "Orders.amount": {},
	} {
		source, path, ok := spec.Qualified(p, from)
		require.Equal(t, want[0] != "", ok, from)
		require.Equal(t, want[0], source, from)
		if ok {
			require.Equal(t, want[1], path, from)
		}
	}
	_, _, ok := spec.Qualified(parse(t, minimal), "orders.amount")
	require.False(t, ok)
}

func TestTimesOfJoin(t *testing.T) {
	p := spec.WithDefaults(parse(t, join))
	for _, c := range []struct {
		kind                                 controlv1.Join_Kind
		window, grace, heartbeat, rest, idle time.Duration
	}{
		{controlv1.Join_INTERVAL, time.Hour, 12 * time.Second, time.Second, 3 * time.Second, 30 * time.Second},
		{controlv1.Join_INTERVAL, 2 * time.Second, time.Second, 300 * time.Millisecond, 900 * time.Millisecond, 3 * time.Second},
		{controlv1.Join_INTERVAL, time.Millisecond, 0, 100 * time.Millisecond, 300 * time.Millisecond, time.Millisecond},
		{controlv1.Join_LOOKUP, time.Hour, 0, 100 * time.Millisecond, 300 * time.Millisecond, 30 * time.Second},
		{controlv1.Join_LOOKUP, 0, 12 * time.Second, time.Second, 3 * time.Second, 30 * time.Second},
	} {
		p.Join.Kind, p.Join.Grace, p.Join.Window = c.kind, durationpb.New(c.grace), nil
		if c.window > 0 {
			p.Join.Window = durationpb.New(c.window)
		}
		require.Equal(t, c.heartbeat, spec.Heartbeat(p, spec.Branches(p)[0], 1), "%+v", c)
		least, most := spec.IdleHeartbeat(p, spec.Branches(p)[1], 1)
		require.Equal(t, c.rest, most, "%+v", c)
		require.Equal(t, c.heartbeat, least, "%+v", c)
		require.Equal(t, c.idle, spec.Idle(p), "%+v", c)
	}
	// The orders' dedup key is not their join key: each of many lanes says it to all.
	p.Lanes, p.Join.Kind, p.Join.Window, p.Join.Grace = 16, controlv1.Join_INTERVAL, durationpb.New(time.Hour), durationpb.New(0)
	require.Equal(t, 4*time.Second, spec.Heartbeat(p, spec.Branches(p)[0], 1))
	p.Join.Window = durationpb.New(20 * time.Second)
	require.Equal(t, 2*time.Second, spec.Heartbeat(p, spec.Branches(p)[0], 1), "a tenth of what a row waits is enough")
	p.Sources["orders"].Dedup = nil
	require.Equal(t, time.Second, spec.Heartbeat(p, spec.Branches(p)[0], 1))
}

// However many lanes and partitions there are, what the heartbeats of idle partitions are in one log is bounded, and an idle partition's word is good until the third one
// after it.
func TestHeartbeatsAreBounded(t *testing.T) {
	joined, alone := spec.WithDefaults(parse(t, join)), spec.WithDefaults(parse(t, minimal))
	alone.Dedup = &controlv1.Dedup{Key: []string{"id"}, Window: durationpb.New(24 * time.Hour), Time: "at"}
	relaned, most := 0, 0.0
	for _, p := range []*controlv1.Pipeline{joined, alone} {
		for _, grace := range []time.Duration{0, 10 * time.Second, time.Hour} {
			for _, lanes := range []uint32{1, 2, 4, 16, 64} {
				for _, partitions := range []int{1, 3, 12, 100, 1000} {
					p.Lanes = lanes
					if p.Join != nil {
						p.Join.Kind, p.Join.Window, p.Join.Grace = controlv1.Join_LOOKUP, nil, durationpb.New(grace)
					}
					idle, busy := 0.0, 0.0
					for _, b := range spec.Branches(p) {
						round := float64(lanes)
						if b.Relane {
							round *= round
							relaned++
						}
						least, rest := spec.IdleHeartbeat(p, b, partitions)
						require.LessOrEqual(t, least, rest)
						idle += float64(partitions) * round / least.Seconds()
						busy += float64(partitions) * round / spec.Heartbeat(p, b, partitions).Seconds()
						confirm := max(spec.Confirm(p), time.Duration(partitions)*spec.ConfirmEach(p, b))
						require.GreaterOrEqual(t, confirm, 3*rest)
						if p.Join != nil {
							require.GreaterOrEqual(t, confirm, grace)
						}
					}
					require.LessOrEqual(t, idle, 100.001)
					require.LessOrEqual(t, busy, 1000.001)
					most = max(most, idle)
				}
			}
		}
	}
	require.Positive(t, relaned)
	require.Greater(t, most, 99.0)
}

func TestMetadata(t *testing.T) {
	name, header, ok := spec.Metadata("$header.a.b")
	require.True(t, ok)
	require.Equal(t, spec.MetaHeader, name)
	require.Equal(t, "a.b", header)
	for _, from := range []string{"$topic", "$partition", "$offset", "$timestamp", "$key"} {
		name, _, ok := spec.Metadata(from)
		require.True(t, ok)
		require.Equal(t, from, name)
	}
	for _, from := range []string{"", "topic", "$header", "$header.", "$Topic", "$.topic"} {
		_, _, ok := spec.Metadata(from)
		require.False(t, ok, from)
	}
}

// golden compares with a file in testdata; SLUICE_UPDATE_GOLDEN=1 writes it.
func golden(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if os.Getenv("SLUICE_UPDATE_GOLDEN") == "1" {
		require.NoError(t, os.MkdirAll("testdata", 0o755))
		require.NoError(t, os.WriteFile(path, []byte(got), 0o644))
	}
	want, err := os.ReadFile(path)
	require.NoError(t, err)
	require.Equal(t, string(want), got)
}
