package rows

import (
	"testing"

	"github.com/stretchr/testify/require"

	"sluice/gen/sluice/control/v1"
	"sluice/libs/spec"
)

func branchParser(t *testing.T, schema *controlv1.Schema, b spec.Branch) *Parser {
	t.Helper()
	plan, err := NewBranchPlan(schema, b)
	require.NoError(t, err)
	require.True(t, plan.Join())
	return NewParser(plan)
}

// The keys of both sides meet, whatever their fields are called, and are those of dedup.
func TestJoinKeysOfBothSidesMeet(t *testing.T) {
	left := branchParser(t, nil, spec.Branch{Source: "orders", JoinKey: []string{"user_id", "shop.id"}, Dedup: &controlv1.Dedup{Key: []string{"user_id", "shop.id"}}})
	right := branchParser(t, nil, spec.Branch{Source: "users", JoinKey: []string{"id", "shop"}})
	a, reject := left.Parse(record(`{"user_id":9007199254740993,"shop":{"id":"é@x.org"}}`))
	require.Nil(t, reject)
	b, reject := right.Parse(record(`{"shop":"\u00e9@x.org","id":9007199254740993.0}`))
	require.Nil(t, reject)
	require.Equal(t, a.JoinKey, b.JoinKey)
	require.Equal(t, a.Key, a.JoinKey)
	require.Zero(t, b.Key)
	other, reject := right.Parse(record(`{"shop":"é@x.org","id":"9007199254740993"}`))
	require.Nil(t, reject)
	require.NotEqual(t, a.JoinKey, other.JoinKey, "the same value of the same type")
}

func TestEventsWithoutAJoinKey(t *testing.T) {
	p := branchParser(t, nil, spec.Branch{Source: "users", JoinKey: []string{"id", "shop"}})
	for _, value := range []string{`{}`, `{"id":1}`, `{"id":null,"shop":"a"}`} {
		row, reject := p.Parse(record(value))
		require.Nil(t, reject, value)
		require.Zero(t, row.JoinKey, value)
		require.EqualValues(t, 1769862896789, row.EventMS, "Kafka's timestamp")
	}
}

func TestTimeToBeJoinedBy(t *testing.T) {
	p := branchParser(t, nil, spec.Branch{Source: "users", JoinKey: []string{"id"}, Time: "at", Dedup: &controlv1.Dedup{
		Key: []string{"event"}, Time: "seen", MissingKey: controlv1.MissingKey_PASS,
	}})
	row, reject := p.Parse(record(`{"id":1,"event":2,"at":"1969-12-31T23:59:59.998Z","seen":1769862896}`))
	require.Nil(t, reject)
	require.EqualValues(t, -2, row.EventMS)
	require.EqualValues(t, 1769862896000, row.TimeMS)
	// Passing dedup without a key is one thing, having no time another.
	_, reject = p.Parse(record(`{"id":1}`))
	require.Equal(t, &Reject{Field: "at", Reason: "missing event time"}, reject)

	p = branchParser(t, nil, spec.Branch{Source: "users", JoinKey: []string{"id"}})
	timeless := record(`{"id":1}`)
	timeless.TimestampMS = -1
	_, reject = p.Parse(timeless)
	require.Equal(t, "$timestamp", reject.Field)
}

func TestColumnsOfOneSource(t *testing.T) {
	schema := &controlv1.Schema{Columns: []*controlv1.SchemaColumn{
		{Name: "amount", Type: "Int64", From: "amount", Source: "orders"},
		{Name: "name", Type: "String", From: "name", Source: "users"},
		{Name: "user_offset", Type: "Int64", From: "$offset", Source: "users"},
	}}
	p := branchParser(t, schema, spec.Branch{Source: "users", JoinKey: []string{"id"}})
	columns := p.plan.NewColumns()
	require.Len(t, columns, 2)
	_, reject := p.Parse(record(`{"id":1,"amount":"none of ours","name":"a"}`))
	require.Nil(t, reject)
	require.Nil(t, p.AppendTo(columns))
}
