package control_test

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kgo"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	controlv1 "sluice/gen/sluice/control/v1"
)

const enriched = `
id: enriched
sources:
  orders: {kafka: {brokers: [KAFKA], topic: orders}, dedup: {key: [order_id], window: 1h}}
  users: {kafka: {brokers: [KAFKA], topic: users, start: LATEST}}
join: {left: orders, right: users, on: [{left: user_id, right: id}], window: 1h, type: LEFT}
sink: {clickhouse: {addr: ["CH"], table: DB.enriched}}
columns: [{name: order_offset, from: orders.$offset}]
`

const enrichedTable = `CREATE TABLE DB.enriched (order_id Int64, user_id Int64, amount Int64, name Nullable(String), city String, order_offset Int64)
ENGINE = MergeTree ORDER BY order_id SETTINGS non_replicated_deduplication_window = 10000`

func TestCreateAndDeleteAJoin(t *testing.T) {
	s := newSite(t)
	ctx := t.Context()
	s.topic("orders", 2, `{"order_id":1,"user_id":7,"amount":3}`, `{"order_id":2,"user_id":8,"amount":4}`)
	s.topic("users", 1, `{"id":7,"name":"Ada","city":"Bern"}`)
	s.sql(enrichedTable)
	resp := s.create(s.parse(enriched))
	rec := resp.Pipeline
	got := map[string]string{}
	for _, c := range rec.Schemas[0].Columns {
		got[c.Name] = c.Source + "." + c.From
	}
	require.Equal(t, map[string]string{
		"order_id": "orders.order_id", "user_id": "orders.user_id", "amount": "orders.amount", "name": "users.name", "city": "users.city",
		"order_offset": "orders.$offset",
	}, got)
	require.Nil(t, rec.StartOffsets)
	require.Len(t, rec.SourceStartOffsets, 1)
	require.Equal(t, map[int32]int64{0: 1}, rec.SourceStartOffsets["users"].Offsets)
	require.Equal(t, []string{"column city: rows without a counterpart in users have the zero value of String there, as the column is neither Nullable nor has a DEFAULT"}, resp.Warnings)
	require.ElementsMatch(t, append(complete("enriched"), "sluice_enriched_join"), s.streams("enriched"))

	st, err := s.client.Status(ctx, &controlv1.StatusRequest{Id: "enriched"})
	require.NoError(t, err)
	require.EqualValues(t, 2, st.Status.Lag, "the users begin at their end")

	other := s.parse(enriched)
	other.Id, other.Sources["users"].Kafka.Group = "other", "sluice-enriched-orders"
	_, err = s.client.Create(ctx, &controlv1.CreateRequest{Pipeline: other})
	require.ErrorContains(t, err, "sources.users.kafka.group: sluice-enriched-orders: is used by pipeline enriched: ")

	for _, group := range []string{"sluice-enriched-orders", "sluice-enriched-users"} {
		s.commit(group, strings.TrimPrefix(group, "sluice-enriched-"))
	}
	_, err = s.client.Delete(ctx, &controlv1.DeleteRequest{Id: "enriched"})
	require.NoError(t, err)
	require.Empty(t, s.streams("enriched"))
	groups, err := s.admin.ListGroups(ctx)
	require.NoError(t, err)
	require.Empty(t, groups.Groups())
}

// commit makes a consumer group that has offsets and no member.
func (p *plant) commit(group, topic string) {
	p.t.Helper()
	client, err := kgo.NewClient(kgo.SeedBrokers(p.kafka), kgo.ConsumerGroup(group), kgo.ConsumeTopics(topic))
	require.NoError(p.t, err)
	defer client.Close()
	fetches := client.PollRecords(p.t.Context(), 1)
	require.NoError(p.t, fetches.Err())
	require.NoError(p.t, client.CommitUncommittedOffsets(p.t.Context()))
}

// TestJoinThatFitsNothing is what a user reads about two sources.
func TestJoinThatFitsNothing(t *testing.T) {
	s := newSite(t)
	s.topic("users", 1, `{"id":7,"name":"Ada","amount":1}`)
	s.sql(enrichedTable)
	_, err := s.client.Create(t.Context(), &controlv1.CreateRequest{Pipeline: s.parse(enriched)})
	require.Equal(t, codes.InvalidArgument, status.Code(err))
	require.ErrorContains(t, err, "sources.orders.kafka.topic: orders: does not exist on this cluster: create the topic first, or correct its name")

	s.topic("orders", 1, `{"order_id":1,"user_id":7,"amount":3}`)
	_, err = s.client.Create(t.Context(), &controlv1.CreateRequest{Pipeline: s.parse(enriched)})
	require.Equal(t, codes.InvalidArgument, status.Code(err))
	require.ErrorContains(t, err, "columns: amount: is a field of the events of orders and of users: say which one under columns: {name: amount, from: orders.amount}")
	require.Empty(t, s.streams("enriched"))
}

func TestTableOfAJoin(t *testing.T) {
	s := newSite(t)
	s.topic("orders", 1, `{"order_id":1,"user_id":7,"amount":3,"tags":["a"]}`, `{"order_id":2,"user_id":7,"amount":3}`)
	s.topic("users", 1, `{"id":7,"name":"Ada","amount":1}`)
	pipeline := s.parse(enriched)
	pipeline.Columns, pipeline.Sink.Clickhouse.CreateTable = nil, true
	resp := s.create(pipeline)
	got := map[string]string{}
	for _, c := range resp.Pipeline.Schemas[0].Columns {
		got[c.Name] = c.Type + " < " + c.Source + "." + c.From + " " + c.DefaultExpression
	}
	require.Equal(t, map[string]string{
		"order_id": "Int64 < orders.order_id ", "user_id": "Int64 < orders.user_id ", "orders.amount": "Int64 < orders.amount ",
		"tags": "Array(String) < orders.tags []", "id": "Nullable(Int64) < users.id ", "name": "Nullable(String) < users.name ",
		"users.amount": "Nullable(Int64) < users.amount ",
	}, got)
	_, err := s.client.Update(t.Context(), &controlv1.UpdateRequest{Pipeline: pipeline})
	require.NoError(t, err, "the same once more")
}
