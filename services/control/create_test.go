package control_test

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	controlv1 "sluice/gen/sluice/control/v1"
	"sluice/libs/playground/clickhouse/clickhousetest"
	"sluice/libs/playground/nats/natstest"
)

const orders = `
id: orders
source: {kafka: {brokers: [KAFKA], topic: orders}}
dedup: {key: [event_id], window: 24h}
sink: {clickhouse: {addr: ["CH"], table: DB.orders}}
columns: [{name: city, from: user.city}, {name: at, from: $timestamp}]
`

const ordersTable = `CREATE TABLE DB.orders (event_id String, city String, amount Int64, at DateTime64(3), note Nullable(String), made Date DEFAULT today(), twice Int64 MATERIALIZED amount * 2)
ENGINE = MergeTree ORDER BY event_id SETTINGS non_replicated_deduplication_window = 10000`

// site is a plant with a database.
type site struct {
	*plant
	ch, db string
}

func newSite(t *testing.T) *site {
	t.Helper()
	ch, db := clickhousetest.StartDB(t)
	return &site{newPlant(t), ch, db}
}

func (s *site) parse(text string) *controlv1.Pipeline {
	s.t.Helper()
	return parse(s.t, text, "KAFKA", s.kafka, "CH", s.ch, "DB", s.db)
}

func (s *site) sql(statement string) {
	s.t.Helper()
	execute(s.t, s.ch, replaceDB(statement, s.db))
}

func TestCreate(t *testing.T) {
	s := newSite(t)
	ctx := t.Context()
	s.topic("orders", 2, events(10)...)
	s.sql(ordersTable)

	checked, err := s.client.Create(ctx, &controlv1.CreateRequest{Pipeline: s.parse(orders), ValidateOnly: true})
	require.NoError(t, err)
	require.Empty(t, checked.Pipeline.Uid)
	require.Empty(t, s.streams("orders"), "only checked")
	_, err = s.client.Get(ctx, &controlv1.GetRequest{Id: "orders"})
	require.Equal(t, codes.NotFound, status.Code(err))

	resp := s.create(s.parse(orders))
	rec := resp.Pipeline
	require.NotEmpty(t, rec.Uid)
	require.EqualValues(t, 1, rec.Generation)
	require.Equal(t, controlv1.DesiredState_RUNNING, rec.Desired)
	require.EqualValues(t, 4, rec.Spec.Lanes)
	require.Nil(t, rec.StartOffsets)
	require.Equal(t, controlv1.Guarantee_EXACTLY_ONCE, rec.Guarantee.Level)
	require.Len(t, rec.Schemas, 1)
	require.EqualValues(t, 1, rec.Schemas[0].Revision)
	got := map[string]string{}
	for _, c := range rec.Schemas[0].Columns {
		got[c.Name] = c.Type + " < " + c.From + " " + c.DefaultExpression
	}
	require.Equal(t, map[string]string{
		"event_id": "String < event_id ", "city": "String < user.city ", "amount": "Int64 < amount ",
		"at": "DateTime64(3) < $timestamp ", "note": "Nullable(String) < note ", "made": "Date < made today()",
	}, got)
	require.Equal(t, []string{
		"column note: field note is not in any of 10 sampled events: it is NULL",
		"column made: field made is not in any of 10 sampled events: it takes its default",
		"fields of the events that no column takes are left out: extra",
	}, resp.Warnings)
	require.ElementsMatch(t, complete("orders"), s.streams("orders"))

	_, err = s.client.Create(ctx, &controlv1.CreateRequest{Pipeline: s.parse(orders)})
	require.Equal(t, codes.AlreadyExists, status.Code(err))
	list, err := s.client.List(ctx, &controlv1.ListRequest{})
	require.NoError(t, err)
	require.Len(t, list.Pipelines, 1)
	require.Equal(t, rec.Uid, list.Pipelines[0].Uid)

	other := s.parse(orders)
	other.Id, other.Source.Kafka.Group = "other", "sluice-orders"
	_, err = s.client.Create(ctx, &controlv1.CreateRequest{Pipeline: other})
	require.Equal(t, codes.InvalidArgument, status.Code(err))
	require.ErrorContains(t, err, "source.kafka.group: sluice-orders: is used by pipeline orders: give another group")
}

func TestCreateWithoutDedup(t *testing.T) {
	s := newSite(t)
	s.topic("orders", 1, events(1)...)
	s.sql(ordersTable)
	pipeline := s.parse(orders)
	pipeline.Dedup = nil
	s.create(pipeline)
	require.ElementsMatch(t, []string{"sluice_orders_ingest", "sluice_orders_dlq", "sluice_orders_receipts", "KV_sluice_orders_state"}, s.streams("orders"))
}

// Settings that the server does not take would fail every insert.
func TestSettingsAreTriedOnTheServer(t *testing.T) {
	s := newSite(t)
	s.topic("orders", 1, events(1)...)
	s.sql(ordersTable)
	pipeline := s.parse(orders)
	pipeline.Sink.GetClickhouse().Settings = map[string]string{"max_threads": "2", "max_insert_block_sizes": "1000", "max_memory_usage": "plenty", "date_time_input_format": "best_effort"}
	_, err := s.client.Create(t.Context(), &controlv1.CreateRequest{Pipeline: pipeline})
	require.Equal(t, codes.InvalidArgument, status.Code(err))
	var fields []string
	for _, d := range status.Convert(err).Details() {
		for _, v := range d.(*errdetails.BadRequest).FieldViolations {
			fields = append(fields, v.Field)
			require.Contains(t, v.Description, "correct or remove the setting")
		}
	}
	require.Equal(t, []string{"sink.clickhouse.settings.max_insert_block_sizes", "sink.clickhouse.settings.max_memory_usage"}, fields)

	pipeline.Sink.GetClickhouse().Settings = map[string]string{"max_threads": "2", "date_time_input_format": "best_effort"}
	s.create(pipeline)
}

// TestEverythingWrong is what a user reads whose pipeline fits nothing.
func TestEverythingWrong(t *testing.T) {
	s := newSite(t)
	s.sql(ordersTable)
	pipeline := s.parse(`
id: Orders
source: {kafka: {brokers: [KAFKA], topic: ordres}}
dedup: {key: [event_id], window: 24h, version: v}
sink: {clickhouse: {addr: ["CH"], table: DB.orders, settings: {async_insert: "1"}}}
columns: [{name: town, from: user.city}, {name: twice}]
lanes: 1000
`)
	_, err := s.client.Create(t.Context(), &controlv1.CreateRequest{Pipeline: pipeline})
	require.Equal(t, codes.InvalidArgument, status.Code(err))
	golden(t, "everything_wrong.txt", status.Convert(err).Message(), s.db, "DB", s.kafka, "KAFKA")
	var fields []string
	for _, d := range status.Convert(err).Details() {
		for _, v := range d.(*errdetails.BadRequest).FieldViolations {
			fields = append(fields, v.Field)
			require.NotEmpty(t, v.Description)
		}
	}
	require.Equal(t, []string{"id", "lanes", "dedup.version", "source.kafka.topic", "sink.clickhouse.settings.async_insert", "columns[0].name", "columns[1].name"}, fields)

	pipeline = s.parse(`
id: orders
source: {kafka: {brokers: ["127.0.0.1:1"], topic: orders}}
sink: {clickhouse: {addr: ["CH"], table: DB.missing}}
`)
	_, err = s.client.Create(t.Context(), &controlv1.CreateRequest{Pipeline: pipeline})
	require.Equal(t, codes.InvalidArgument, status.Code(err))
	golden(t, "table_missing.txt", status.Convert(err).Message(), s.db, "DB", s.kafka, "KAFKA")
}

func TestUnreachable(t *testing.T) {
	p := newPlant(t)
	pipeline := parse(t, orders, "KAFKA", "127.0.0.1:1", "CH", "127.0.0.1:2", "DB", "d")
	_, err := p.client.Create(t.Context(), &controlv1.CreateRequest{Pipeline: pipeline})
	require.Equal(t, codes.Unavailable, status.Code(err))
	require.ErrorContains(t, err, "Kafka cannot be asked: source.kafka.brokers [127.0.0.1:1]")
	require.ErrorContains(t, err, "ClickHouse cannot be asked: clickhouse 127.0.0.1:2")
	require.Empty(t, p.streams("orders"))
}

func TestCreateTable(t *testing.T) {
	s := newSite(t)
	s.topic("orders", 1, events(5)...)
	const head = "\nsource: {kafka: {brokers: [KAFKA], topic: orders}}\ndedup: {key: [event_id], window: 24h}\n"

	t.Run("from the sample", func(t *testing.T) {
		pipeline := s.parse("id: sampled" + head + `sink: {clickhouse: {addr: ["CH"], table: DB.sampled, create_table: true}}`)
		checked, err := s.client.Create(t.Context(), &controlv1.CreateRequest{Pipeline: pipeline, ValidateOnly: true})
		require.NoError(t, err)
		rec := s.create(pipeline).Pipeline
		require.Equal(t, controlv1.Guarantee_EXACTLY_ONCE, rec.Guarantee.Level)
		got := map[string]string{}
		for _, c := range rec.Schemas[0].Columns {
			got[c.Name] = c.Type
		}
		require.Equal(t, map[string]string{"event_id": "String", "user": "String", "amount": "Int64", "extra": "Int64"}, got)
		require.Len(t, checked.Pipeline.Schemas[0].Columns, 4)
		for _, warning := range checked.Warnings {
			require.NotContains(t, warning, "sampled events", "every column was made from the sample")
		}
	})
	t.Run("as declared", func(t *testing.T) {
		rec := s.create(s.parse("id: declared" + head + `sink: {clickhouse: {addr: ["CH"], table: DB.declared, create_table: true}}
columns: [{name: id, from: event_id}, {name: city, from: user.city, type: LowCardinality(String)}, {name: p, from: $partition}]`)).Pipeline
		got := map[string]string{}
		for _, c := range rec.Schemas[0].Columns {
			got[c.Name] = c.Type + " < " + c.From
		}
		require.Equal(t, map[string]string{"id": "String < event_id", "city": "LowCardinality(String) < user.city", "p": "Int32 < $partition"}, got)
	})
	t.Run("no type to be found", func(t *testing.T) {
		_, err := s.client.Create(t.Context(), &controlv1.CreateRequest{Pipeline: s.parse("id: bad" + head + `sink: {clickhouse: {addr: ["CH"], table: DB.bad, create_table: true}}
columns: [{name: x, from: no.where}, {name: y, type: Strnig}]`)})
		require.Equal(t, codes.InvalidArgument, status.Code(err))
		require.ErrorContains(t, err, "columns[0].type: is missing, and field no.where of column x is in no sampled event: give the column's ClickHouse type")
		require.ErrorContains(t, err, "columns[1].type: Strnig: ")
	})
}

func TestSetDeduplicationWindow(t *testing.T) {
	s := newSite(t)
	s.topic("orders", 1, events(1)...)
	s.sql("CREATE TABLE DB.orders (event_id String, city String, amount Int64, at DateTime64(3)) ENGINE = MergeTree ORDER BY event_id")
	checked, err := s.client.Create(t.Context(), &controlv1.CreateRequest{Pipeline: s.parse(orders), ValidateOnly: true})
	require.NoError(t, err)
	require.Equal(t, controlv1.Guarantee_AT_LEAST_ONCE, checked.Pipeline.Guarantee.Level)
	require.Contains(t, checked.Warnings[len(checked.Warnings)-1], "at least once: ")
	pipeline := s.parse(orders)
	pipeline.Sink.Clickhouse.SetDeduplicationWindow = true
	// A check says what would be done, and does not do it.
	checked, err = s.client.Create(t.Context(), &controlv1.CreateRequest{Pipeline: pipeline, ValidateOnly: true})
	require.NoError(t, err)
	require.Equal(t, controlv1.Guarantee_EXACTLY_ONCE, checked.Pipeline.Guarantee.Level)
	require.Equal(t, "only checked: set_deduplication_window would change the table by ALTER TABLE `"+s.db+"`.`orders` MODIFY SETTING non_replicated_deduplication_window = 10000",
		checked.Warnings[len(checked.Warnings)-1])
	checked, err = s.client.Create(t.Context(), &controlv1.CreateRequest{Pipeline: s.parse(orders), ValidateOnly: true})
	require.NoError(t, err)
	require.Equal(t, controlv1.Guarantee_AT_LEAST_ONCE, checked.Pipeline.Guarantee.Level, "nothing was done")
	require.Equal(t, controlv1.Guarantee_EXACTLY_ONCE, s.create(pipeline).Pipeline.Guarantee.Level)
}

// No column can be called "".
func TestTableOfAFieldWithoutAName(t *testing.T) {
	s := newSite(t)
	s.topic("orders", 1, `{"event_id":"a","":1}`)
	pipeline := s.parse(orders)
	pipeline.Columns, pipeline.Sink.Clickhouse.CreateTable = nil, true
	_, err := s.client.Create(t.Context(), &controlv1.CreateRequest{Pipeline: pipeline})
	require.Equal(t, codes.InvalidArgument, status.Code(err))
	require.ErrorContains(t, err, `sink.clickhouse.create_table: a sampled event of topic orders has a field whose name is empty (""), which no column can have: declare the columns`)
}

// What a trace is asked for is named when it is missing.
func TestTraceOfNothing(t *testing.T) {
	s := &site{plant: newPlant(t)}
	s.recorded()
	for want, req := range map[string]*controlv1.TraceRequest{
		"offset, key: both are missing":     {Id: "orders"},
		"offset.partition: -1: is negative": {Id: "orders", Event: &controlv1.TraceRequest_Offset{Offset: &controlv1.TraceOffset{Partition: -1}}},
		"offset.offset: -1: is negative":    {Id: "orders", Event: &controlv1.TraceRequest_Offset{Offset: &controlv1.TraceOffset{Offset: -1}}},
		"key.values: ":                      {Id: "orders", Event: &controlv1.TraceRequest_Key{Key: &controlv1.TraceKey{}}},
	} {
		_, err := s.client.Trace(t.Context(), req)
		require.Equal(t, codes.InvalidArgument, status.Code(err), err)
		require.ErrorContains(t, err, want)
	}
}

func TestStart(t *testing.T) {
	s := newSite(t)
	s.topic("orders", 2, events(5)...) // 3 and 2
	s.sql(ordersTable)
	create := func(id, start string) *controlv1.StartOffsets {
		pipeline := s.parse(orders)
		pipeline.Id, pipeline.Source.Kafka.Start = id, start
		return s.create(pipeline).Pipeline.StartOffsets
	}
	latest := create("latest", "LATEST")
	require.Equal(t, map[int32]int64{0: 3, 1: 2}, latest.Offsets)
	require.Len(t, latest.TopicId, 16)
	require.NotEqual(t, make([]byte, 16), latest.TopicId)
	past := create("past", time.Now().Add(-time.Hour).UTC().Format(time.RFC3339))
	require.Equal(t, map[int32]int64{0: 0, 1: 0}, past.Offsets)
	future := create("future", time.Now().Add(time.Hour).UTC().Format(time.RFC3339))
	require.Equal(t, map[int32]int64{0: 3, 1: 2}, future.Offsets)
}

// TestStartsBeforeNATS: control answers at once that it waits, and works when NATS has come.
func TestStartsBeforeNATS(t *testing.T) {
	server := natstest.New(t)
	server.Stop()
	client, _ := serve(t, server.URL(), quick, &syncBuffer{}, false)
	_, err := client.List(t.Context(), &controlv1.ListRequest{})
	require.Equal(t, codes.Unavailable, status.Code(err))
	server.Start()
	require.Eventually(t, func() bool {
		_, err := client.List(t.Context(), &controlv1.ListRequest{})
		return err == nil
	}, 2*time.Minute, 50*time.Millisecond)
	server.Restart()
	require.Eventually(t, func() bool {
		_, err := client.List(t.Context(), &controlv1.ListRequest{})
		return err == nil
	}, 2*time.Minute, 50*time.Millisecond)
}

// TestSecretsStayWhereTheyAre: the value of a secret is in no answer and in no log, also when the
// server refuses it.
func TestSecretsStayWhereTheyAre(t *testing.T) {
	s := newSite(t)
	s.topic("orders", 1, events(1)...)
	s.sql(ordersTable)
	const secret = "hunter2-is-not-to-be-seen"
	t.Setenv("SLUICE_TEST_SECRET", secret)
	from := func() *controlv1.Secret {
		return &controlv1.Secret{From: &controlv1.Secret_Env{Env: "SLUICE_TEST_SECRET"}}
	}
	pipeline := s.parse(orders)
	pipeline.Sink.Clickhouse.Password = from()
	pipeline.Source.Kafka.Sasl = &controlv1.SASL{Mechanism: controlv1.SASL_PLAIN, Username: "u", Password: from()}
	_, err := s.client.Create(t.Context(), &controlv1.CreateRequest{Pipeline: pipeline})
	require.Error(t, err, "the broker has no SASL")
	require.NotContains(t, err.Error(), secret)
	pipeline.Source.Kafka.Sasl = nil
	resp, err := s.client.Create(t.Context(), &controlv1.CreateRequest{Pipeline: pipeline})
	if err == nil {
		require.NotContains(t, resp.String(), secret)
		require.Equal(t, "SLUICE_TEST_SECRET", resp.Pipeline.Spec.Sink.Clickhouse.Password.GetEnv())
	} else {
		require.NotContains(t, err.Error(), secret)
	}
	pipeline.Id = "unset"
	pipeline.Sink.Clickhouse.Password = &controlv1.Secret{From: &controlv1.Secret_Env{Env: "SLUICE_TEST_UNSET"}}
	_, err = s.client.Create(t.Context(), &controlv1.CreateRequest{Pipeline: pipeline})
	require.Equal(t, codes.InvalidArgument, status.Code(err))
	require.ErrorContains(t, err, "sink.clickhouse.password: environment variable SLUICE_TEST_UNSET is not set on this service")
	s.stop()
	require.NotContains(t, s.logs.String(), secret)
	require.Contains(t, s.logs.String(), "listening")
}

// TestCreateAtTheSameTime: one of many wins, the others are told, and nothing of it is left broken.
func TestCreateAtTheSameTime(t *testing.T) {
	s := newSite(t)
	s.topic("orders", 1, events(3)...)
	s.sql(ordersTable)
	answers := make(chan error, 6)
	for range cap(answers) {
		go func() {
			_, err := s.client.Create(context.Background(), &controlv1.CreateRequest{Pipeline: s.parse(orders)})
			answers <- err
		}()
	}
	won := 0
	for range cap(answers) {
		if err := <-answers; err == nil {
			won++
		} else {
			require.Equal(t, codes.AlreadyExists, status.Code(err), err)
		}
	}
	require.Equal(t, 1, won)
	require.ElementsMatch(t, complete("orders"), s.streams("orders"))
}
