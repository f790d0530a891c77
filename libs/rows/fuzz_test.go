package rows

import (
	"testing"

	"github.com/stretchr/testify/require"

	"sluice/gen/sluice/control/v1"
)

// Whatever the record: a row is in all columns or in none, and the same record gives the same row.
func FuzzParser(f *testing.F) {
	for _, value := range []string{
		`{"id":1,"at":"2026-01-31T12:34:56Z","v":1,"name":"x","tags":["a",null],"m":{"k":[1.5]},"d":{"x":1}}`,
		`{"id":"1","at":1769862896789,"v":"2026-01-31","name":null,"tags":[],"m":{},"d":"\u00e9","price":1e-2}`,
		`{"id":[1],"at":1.5,"v":-1,"name":"\ud83d\ude00","tags":"a","price":"12.345"}`,
		`{"id":null}`, `{}`, ``,
	} {
		f.Add([]byte(value), []byte("key"), int64(1769862896789))
	}
	plan, err := NewPlan(columnsOf(
		"name|Nullable(String)", "tags|Array(Nullable(String))", "m|Map(String, Array(Float64))", "d|Dynamic", "price|Decimal(9, 2)||0",
		"at|DateTime64(3)||now()", "lc|LowCardinality(String)|name|''", "key|String|$key", "dkey|Dynamic|$key", "when|Date32|$timestamp", "off|UInt8|$offset",
	), &controlv1.Dedup{Key: []string{"id"}, Time: "at", Version: "v"})
	require.NoError(f, err)
	f.Fuzz(func(t *testing.T, value, key []byte, timestamp int64) {
		rec := Record{Topic: "t", Value: value, Key: key, TimestampMS: timestamp}
		p := NewParser(plan)
		row, reject := p.Parse(rec)
		again, rejectedAgain := p.Parse(rec)
		require.Equal(t, row, again)
		require.Equal(t, reject, rejectedAgain)
		if reject != nil {
			require.NotEmpty(t, reject.Reason)
			return
		}
		require.NotZero(t, row.Key)
		columns := plan.NewColumns()
		want := 1
		if reject := p.AppendTo(columns); reject != nil {
			require.NotEmpty(t, reject.Reason)
			require.NotEmpty(t, reject.Field)
			want = 0
		}
		for i, c := range columns {
			require.Equal(t, want, c.Rows(), plan.columns[i].name)
			again := plan.NewColumns()[i]
			require.NoError(t, again.AppendFromWire(c.AppendWire(nil), want, nil))
		}
	})
}
