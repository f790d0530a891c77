package rows_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	controlv1 "sluice/gen/sluice/control/v1"
	"sluice/libs/rows"
	"sluice/libs/spec"
)

// TestKeysAsUsersWriteThem: the fingerprint of a key that is given value by value is that of the events with it.
func TestKeysAsUsersWriteThem(t *testing.T) {
	columns := []*controlv1.SchemaColumn{{Name: "x", Type: "UInt8"}}
	plan, err := rows.NewPlan(columns, &controlv1.Dedup{Key: []string{"user.id", "kind"}})
	require.NoError(t, err)
	row, reject := rows.NewParser(plan).Parse(rows.Record{Value: []byte(`{"kind":"a b","user":{"id":9007199254740993},"x":1}`), Offset: 5000})
	require.Nil(t, reject)
	for _, values := range [][]string{{"9007199254740993", `"a b"`}, {" 9007199254740993.0 ", `"a\u0020b"`}} {
		key, err := plan.KeyOf(values)
		require.NoError(t, err)
		require.Equal(t, row.Key, key)
	}
	other, err := plan.KeyOf([]string{"9007199254740992", `"a b"`})
	require.NoError(t, err)
	require.NotEqual(t, row.Key, other)
	for _, values := range [][]string{{"1"}, {"1", "a b"}, {"1", ""}, {"1", `1},"value":{"x":2`}, {"1", "null"}} {
		_, err := plan.KeyOf(values)
		require.Error(t, err, "%q", values)
	}
	require.Equal(t, int(row.Key[0]>>32%7), plan.Lane(row, []byte("k"), 3, 7))

	plain, err := rows.NewPlan(columns, nil)
	require.NoError(t, err)
	_, err = plain.KeyOf(nil)
	require.ErrorContains(t, err, "no dedup")
	row, reject = rows.NewParser(plain).Parse(rows.Record{Value: []byte(`{"x":1}`), Offset: 5000})
	require.Nil(t, reject)
	require.Equal(t, (5000/4096+3)%7, plain.Lane(row, nil, 3, 7))
}

// TestKeysOfAJoin: without dedup the join key names events, with it the dedup key.
func TestKeysOfAJoin(t *testing.T) {
	schema := &controlv1.Schema{Columns: []*controlv1.SchemaColumn{{Name: "x", Type: "UInt8", Source: "s"}}}
	record := rows.Record{Value: []byte(`{"id":7,"user":"ann","x":1}`)}
	for _, dedup := range []*controlv1.Dedup{nil, {Key: []string{"id"}}} {
		plan, err := rows.NewBranchPlan(schema, spec.Branch{Source: "s", Dedup: dedup, JoinKey: []string{"user"}})
		require.NoError(t, err)
		row, reject := rows.NewParser(plan).Parse(record)
		require.Nil(t, reject)
		right, wrong := `"ann"`, "7"
		if dedup != nil {
			right, wrong = wrong, right
		}
		key, err := plan.KeyOf([]string{right})
		require.NoError(t, err)
		require.True(t, plan.HasKey(row, key))
		key, err = plan.KeyOf([]string{wrong})
		require.NoError(t, err)
		require.False(t, plan.HasKey(row, key))
		require.Equal(t, int(row.JoinKey[0]>>32%5), plan.LaneOfJoin(row, 5))
	}
}
