package control

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	controlv1 "sluice/gen/sluice/control/v1"
	eventv1 "sluice/gen/sluice/event/v1"
	stagev1 "sluice/gen/sluice/stage/v1"
	"sluice/libs/clickhouse"
	"sluice/libs/kafka"
	"sluice/libs/spec"
)

func joinPipeline(t *testing.T) *controlv1.Pipeline {
	p, err := spec.Parse("join", []byte(`id: p
sources:
  orders: {kafka: {brokers: ["k:9092"], topic: orders}, dedup: {key: [order_id], window: 1h}, time: at}
  users: {kafka: {brokers: ["k:9092"], topic: users}}
join: {left: orders, right: users, on: [{left: user_id, right: id}, {left: shop, right: shop}], window: 1h, type: LEFT}
sink: {clickhouse: {addr: ["c:9000"], table: t}}
lanes: 2
`))
	require.NoError(t, err)
	require.NoError(t, spec.Validate(p))
	return spec.WithDefaults(p)
}

func sampledJoin(t *testing.T, orders, users []string, columns ...clickhouse.Column) *checked {
	c := &checked{spec: joinPipeline(t), table: &clickhouse.Table{Exists: len(columns) > 0, Columns: columns}}
	for i, b := range spec.Branches(c.spec) {
		side := topicSide{branch: b, sampled: true}
		for _, doc := range [][]string{orders, users}[i] {
			side.samples = append(side.samples, []byte(doc))
		}
		c.topics = append(c.topics, side)
	}
	require.NoError(t, c.read())
	return c
}

func TestOriginOfColumns(t *testing.T) {
	orders := []string{`{"order_id":1,"user_id":1,"shop":1,"amount":2,"nested":{"a":1},"gone":null}`}
	users := []string{`{"id":1,"shop":1,"name":"n","amount":3}`}
	for _, c := range []struct {
		name          string
		orders, users []string
		from          string
		want          origin
		problem       string
	}{
		{"by its prefix", orders, users, "users.amount", origin{"users", "amount"}, ""},
		{"metadata by its prefix", orders, users, "users.$offset", origin{"users", "$offset"}, ""},
		{"in the left only", orders, users, "order_id", origin{"orders", "order_id"}, ""},
		{"in the right only", orders, users, "name", origin{"users", "name"}, ""},
		{"nested", orders, users, "nested.a", origin{"orders", "nested.a"}, ""},
		{"null is there, too", orders, users, "gone", origin{"orders", "gone"}, ""},
		{"the key on both sides", orders, users, "shop", origin{"orders", "shop"}, ""},
		{"in both", orders, users, "amount", origin{}, "is a field of the events of orders and of users"},
		{"in none", orders, users, "other", origin{"orders", "other"}, ""},
		{"in none, one is silent", orders, nil, "other", origin{"users", "other"}, ""},
		{"in the one that speaks", nil, users, "name", origin{"users", "name"}, ""},
		{"both are silent", nil, nil, "other", origin{}, "neither topic has events"},
		{"both are silent, but the specification names it", nil, nil, "user_id", origin{"orders", "user_id"}, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			checked := sampledJoin(t, c.orders, c.users, clickhouse.Column{Name: c.from, Type: "Int64"})
			got, problem := checked.originOf("x", c.from)
			if c.problem != "" {
				require.NotNil(t, problem)
				require.Contains(t, problem.What, c.problem)
				require.Contains(t, problem.Remedy, "{name: x, from: orders."+c.from+"}")
				return
			}
			require.Nil(t, problem)
			require.Equal(t, c.want, got)
		})
	}
	// An update keeps a column where it was, whatever the sample of the day shows.
	c := sampledJoin(t, orders, users, clickhouse.Column{Name: "amount", Type: "Int64"})
	c.earlier = []*controlv1.SchemaColumn{{Name: "amount", From: "amount", Source: "users"}}
	got, problem := c.originOf("amount", "amount")
	require.Nil(t, problem)
	require.Equal(t, origin{"users", "amount"}, got)
}

func TestTableFromBothSamples(t *testing.T) {
	c := sampledJoin(t,
		[]string{`{"order_id":1,"user_id":1,"shop":"a","amount":2,"tags":["x"],"at":"2026-01-31T10:00:00Z"}`, `{"order_id":2,"user_id":1,"shop":"a","amount":2,"at":"2026-01-31T10:00:00Z"}`},
		[]string{`{"id":1,"shop":"a","name":"n","amount":3,"roles":["r"]}`})
	problems, err := c.resolve()
	require.NoError(t, err)
	require.Empty(t, problems)
	require.Equal(t, []clickhouse.Column{
		{Name: "order_id", Type: "Int64"}, {Name: "user_id", Type: "Int64"}, {Name: "shop", Type: "String"}, {Name: "orders.amount", Type: "Int64"},
		{Name: "tags", Type: "Array(String)", Default: "[]"}, {Name: "at", Type: "DateTime64(3, 'UTC')"},
		{Name: "id", Type: "Nullable(Int64)"}, {Name: "name", Type: "Nullable(String)"}, {Name: "users.amount", Type: "Nullable(Int64)"},
		{Name: "roles", Type: "Array(String)", Default: "[]"},
	}, c.create)
	require.Equal(t, []string{"order_id"}, c.orderBy())
	sources := map[string]string{}
	for _, column := range c.columns {
		sources[column.Name] = column.Source + " " + column.From
	}
	require.Equal(t, map[string]string{
		"order_id": "orders order_id", "user_id": "orders user_id", "shop": "orders shop", "orders.amount": "orders amount", "tags": "orders tags",
		"at": "orders at", "id": "users id", "name": "users name", "users.amount": "users amount", "roles": "users roles",
	}, sources)
	require.Empty(t, c.warnings)

	c = sampledJoin(t, []string{`{"a":["x"],"b":["y"]}`}, []string{`{"a":["x"],"b":["y"]}`})
	problems, err = c.resolve()
	require.NoError(t, err)
	require.NotEmpty(t, problems)
	require.Equal(t, "columns", problems[0].Field)
	c = sampledJoin(t, []string{`{"a":1}`}, nil)
	problems, err = c.resolve()
	require.NoError(t, err)
	require.Len(t, problems, 1)
	require.Contains(t, problems[0].String(), "topic users: no JSON object")
}

func TestWarningsOfAJoin(t *testing.T) {
	c := sampledJoin(t,
		[]string{`{"order_id":1,"user_id":"1","shop":1,"amount":null,"extra":1}`}, []string{`{"id":1,"name":"n"}`},
		clickhouse.Column{Name: "order_id", Type: "Int64"}, clickhouse.Column{Name: "amount", Type: "Int64"}, clickhouse.Column{Name: "name", Type: "String"},
	)
	problems, err := c.resolve()
	require.NoError(t, err)
	require.Empty(t, problems)
	require.Equal(t, []string{
		"sources.orders.time: at: not in any of 1 sampled events; events without it go to the dead letters",
		"column amount: field amount is null in each of 1 sampled events that have it: such events go to the dead letters, as the column is neither Nullable nor has a DEFAULT",
		"fields of orders that no column takes are left out: extra",
		"join.on[1].right: shop: not in any of 1 sampled events; events without it never meet any",
		"column name: rows without a counterpart in users have the zero value of String there, as the column is neither Nullable nor has a DEFAULT",
		"join.on[0]: user_id has strings in orders, id has numbers in users: they are never equal",
	}, c.warnings)
}

// What the samples do not tell is guessed, and told.
func TestGuessesOfAJoin(t *testing.T) {
	orders, users := []string{`{"order_id":1,"user_id":1,"shop":1,"at":"2026-01-31T10:00:00Z","n":{"a":[1]}}`}, []string{`{"id":1,"shop":1}`}
	warnings := func(change func(*controlv1.Pipeline), orders, users []string, columns ...clickhouse.Column) string {
		c := sampledJoin(t, orders, users, columns...)
		change(c.spec)
		for i, b := range spec.Branches(c.spec) {
			c.topics[i].branch = b
		}
		require.NoError(t, c.read())
		problems, err := c.resolve()
		require.NoError(t, err)
		require.Empty(t, problems)
		return strings.Join(c.warnings, "\n") + "\n"
	}
	none := func(*controlv1.Pipeline) {}
	other := clickhouse.Column{Name: "other", Type: "Nullable(String)"}
	require.Contains(t, warnings(none, orders, users, other),
		"column other: no sampled event has other, so it is taken from orders, the left source; if it is of users, say so under columns: {name: other, from: users.other}\n")
	require.Contains(t, warnings(none, orders, nil, other),
		"column other: no sampled event has other, so it is taken from users, whose topic has no events to look at yet; if it is of orders, say so under columns: {name: other, from: orders.other}\n")
	require.Contains(t, warnings(func(p *controlv1.Pipeline) {
		p.Columns = []*controlv1.Column{{Name: "other", From: "usres.name"}}
	}, orders, users, other), "usres is no source: they are orders and users\n")
	require.NotContains(t, warnings(func(p *controlv1.Pipeline) {
		p.Columns = []*controlv1.Column{{Name: "other", From: "users.name"}}
	}, orders, users, other), "no sampled event has")
	on := func(left string) func(*controlv1.Pipeline) {
		return func(p *controlv1.Pipeline) { p.Join.On[0].Left = left }
	}
	id := clickhouse.Column{Name: "order_id", Type: "Int64"}
	require.Contains(t, warnings(on("orders.user_id"), orders, users, id), "events without it never meet any; fields in on have no source in front: write user_id\n")
	require.Contains(t, warnings(on("ordres.user_id"), orders, users, id), "fields in on have no source in front, and ordres is none: they are orders and users\n")
	require.Contains(t, warnings(none, orders, users, clickhouse.Column{Name: "n.a", Type: "Array(Int64)"}, clickhouse.Column{Name: "n.b", Type: "Array(Int64)", Default: "[]"}),
		"columns n.a and n.b are of one Nested, whose arrays ClickHouse wants equally long in each row, but no sampled event has n.b: ")
}

// Errors name the fields as they are written where there are two sources.
func TestFieldsOfASource(t *testing.T) {
	require.Equal(t, "sources.orders.kafka.brokers [k:1]: dial", fieldsOfSource("orders", "source.kafka.brokers [k:1]: dial"))
	require.Equal(t, "source.kafka.brokers [k:1]: dial", fieldsOfSource("", "source.kafka.brokers [k:1]: dial"))
	c := newClusters("test")
	defer c.close()
	b := spec.Branches(joinPipeline(t))[0]
	b.Spec.Kafka.Brokers = []string{"127.0.0.1:1"}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	require.ErrorContains(t, c.useOf(ctx, b, func(*kafka.Cluster) error { return nil }), "sources.orders.kafka.brokers [127.0.0.1:1]")
}

// The lag of a join ends with what the join has taken; what waits there is shown apart.
func TestLagOfAJoin(t *testing.T) {
	rec := &controlv1.PipelineRecord{Spec: joinPipeline(t), Uid: "u", Desired: controlv1.DesiredState_RUNNING}
	ingest := func(source string, partition uint32, position uint64, tally *eventv1.Tally) *stagev1.UnitStatus {
		u := report("ingest", partition, position, tally)
		u.Source = source
		return u
	}
	join := func(lane uint32, tally *eventv1.Tally, orders int64) *stagev1.UnitStatus {
		u := report("join", lane, 1, tally)
		u.BufferedRows = map[string]uint64{"orders": 3, "users": 4}
		if orders > 0 {
			u.WatermarkMs = map[string]int64{"orders": orders}
		}
		return u
	}
	units := func() []*stagev1.UnitStatus {
		return []*stagev1.UnitStatus{
			ingest("orders", 0, 20, &eventv1.Tally{Records: 20, Rows: 20}), ingest("users", 0, 5, &eventv1.Tally{Records: 5, Rows: 5}),
			report("dedup", 0, 1, &eventv1.Tally{Records: 15, Duplicates: 5, Rows: 10}), report("dedup", 1, 1, &eventv1.Tally{Records: 10, Rows: 10}),
			join(0, &eventv1.Tally{Records: 12, Rows: 6, Matched: 5, Unmatched: 1, Late: 2, DeadLetters: 2}, 2000), join(1, &eventv1.Tally{Records: 8, Rows: 7, Matched: 4, Dropped: 1}, 1000),
			report("sink", 0, 1, &eventv1.Tally{Records: 6, Rows: 6}), report("sink", 1, 1, &eventv1.Tally{Records: 7, Rows: 7}),
		}
	}
	at := map[string]*offsets{
		"orders": {topicID: topicNow, earliest: map[int32]int64{0: 0}, end: map[int32]int64{0: 20}},
		"users":  {topicID: topicNow, earliest: map[int32]int64{0: 0}, end: map[int32]int64{0: 5}},
	}
	st := addUp(rec, at, units(), time.Now()).PipelineStatus
	require.Zero(t, st.Lag)
	require.Equal(t, controlv1.PipelineStatus_RUNNING, st.State)
	require.Equal(t, []uint64{9, 1, 2, 1}, []uint64{st.Matched, st.Unmatched, st.Late, st.Dropped})
	require.EqualValues(t, 2, st.DeadLetters, "late rows are dead letters, counted once")
	require.Equal(t, map[string]uint64{"orders": 6, "users": 8}, st.BufferedRows)
	require.EqualValues(t, 1000, st.Watermarks["orders"].AsTime().UnixMilli(), "the lowest")
	require.NotContains(t, st.Watermarks, "users")
	require.Equal(t, []string{"ingest orders-0", "ingest users-0", "dedup 0", "dedup 1", "join 0", "join 1", "sink 0", "sink 1"}, names(st))

	for name, c := range map[string]struct {
		change func([]*stagev1.UnitStatus)
		lag    uint64
	}{
		"not read of users": {func(u []*stagev1.UnitStatus) {
			u[1].Position, u[1].Tally.Rows, u[2].Tally.Records = 3, 3, 13
			u[2].Tally.Rows = 8
			u[4].Tally.Records = 10
		}, 2},
		"before the join":        {func(u []*stagev1.UnitStatus) { u[4].Tally.Records -= 3 }, 3},
		"between join and sink":  {func(u []*stagev1.UnitStatus) { u[6].Tally.Rows -= 4 }, 4},
		"nobody reads users yet": {func(u []*stagev1.UnitStatus) { u[1].TopicId, u[1].Tally, u[1].Position = nil, nil, 0 }, 5},
	} {
		t.Run(name, func(t *testing.T) {
			u := units()
			c.change(u)
			require.Equal(t, c.lag, addUp(rec, at, u, time.Now()).Lag)
		})
	}
	u := units()
	u[1].LastError, u[0].LastError = "no broker", "no broker"
	require.Equal(t, []string{"ingest, partitions orders-0 users-0: no broker"}, addUp(rec, at, u, time.Now()).Errors)
	u[1].Owner = ""
	u[0].LastError, u[1].LastError = "", ""
	require.Equal(t, controlv1.PipelineStatus_STARTING, addUp(rec, at, u, time.Now()).State, "nobody has the users")
}

func names(st *controlv1.PipelineStatus) (list []string) {
	for _, l := range st.Lanes {
		list = append(list, l.Stage+" "+l.Unit)
	}
	return list
}

func TestWhatCannotChangeInAJoin(t *testing.T) {
	from := joinPipeline(t)
	for field, change := range map[string]func(*controlv1.Pipeline){
		"join.left":                  func(p *controlv1.Pipeline) { p.Join.Left, p.Join.Right = p.Join.Right, p.Join.Left },
		"join.on":                    func(p *controlv1.Pipeline) { p.Join.On[0].Right = "uid" },
		"join.kind":                  func(p *controlv1.Pipeline) { p.Join.Kind = controlv1.Join_LOOKUP },
		"join.type":                  func(p *controlv1.Pipeline) { p.Join.Type = controlv1.Join_INNER },
		"join":                       func(p *controlv1.Pipeline) { p.Join, p.Sources, p.Source = nil, nil, from.Sources["orders"] },
		"sources":                    func(p *controlv1.Pipeline) { p.Sources["people"] = p.Sources["users"]; delete(p.Sources, "users") },
		"sources.users.kafka.topic":  func(p *controlv1.Pipeline) { p.Sources["users"].Kafka.Topic = "people" },
		"sources.orders.time":        func(p *controlv1.Pipeline) { p.Sources["orders"].Time = "" },
		"sources.orders.dedup.key":   func(p *controlv1.Pipeline) { p.Sources["orders"].Dedup.Key = []string{"x"} },
		"sources.users.dedup":        func(p *controlv1.Pipeline) { p.Sources["users"].Dedup = from.Sources["orders"].Dedup },
		"sources.orders.kafka.group": func(p *controlv1.Pipeline) { p.Sources["orders"].Kafka.Group = "g" },
	} {
		t.Run(field, func(t *testing.T) {
			to := proto.CloneOf(from)
			change(to)
			var fields []string
			for _, p := range fixed(from, to) {
				fields = append(fields, p.Field)
			}
			require.Contains(t, fields, field)
		})
	}
	to := proto.CloneOf(from)
	to.Join.Memory, to.Sources["orders"].Dedup.Window, to.Batch.Rows = 1<<30, durationpb.New(2*time.Hour), 5
	to.Join.Window, to.Join.Grace, to.Join.Idle, to.Join.MaxFuture = durationpb.New(3*time.Hour), durationpb.New(0), durationpb.New(time.Second), durationpb.New(time.Minute)
	require.Empty(t, fixed(from, to), "memory, durations, blocks and the window of dedup may change")
}
