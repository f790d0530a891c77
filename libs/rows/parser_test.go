package rows

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"sluice/gen/sluice/control/v1"
)

func columnsOf(pairs ...string) (columns []*controlv1.SchemaColumn) {
	for _, pair := range pairs {
		part := strings.SplitN(pair, "|", 4)
		part = append(part, "", "")
		columns = append(columns, &controlv1.SchemaColumn{Name: part[0], Type: part[1], From: part[2], DefaultExpression: part[3]})
	}
	return columns
}

func newParser(t testing.TB, columns []*controlv1.SchemaColumn, dedup *controlv1.Dedup) *Parser {
	t.Helper()
	plan, err := NewPlan(columns, dedup)
	require.NoError(t, err)
	return NewParser(plan)
}

func record(value string) Record {
	return Record{Topic: "events", Partition: 3, Offset: 42, TimestampMS: 1769862896789, Value: []byte(value)}
}

func TestKeysAreEqualWhenTheirValuesAre(t *testing.T) {
	p := newParser(t, nil, &controlv1.Dedup{Key: []string{"id", "user.region"}})
	key := func(value string) [2]uint64 {
		row, reject := p.Parse(record(value))
		require.Nil(t, reject, value)
		require.False(t, row.NoKey)
		require.True(t, row.NoTime)
		require.EqualValues(t, 42, row.Offset)
		require.NotZero(t, row.Key)
		return row.Key
	}
	one := key(`{"id":1,"user":{"region":"é"}}`)
	for _, same := range []string{
		`{"user":{"name":"x","region":"\u00e9"},"id":1.0}`,
		`{"id":10e-1,"user.region":"é"}`,
		`{"other":[1],"id":1e0,"user":{"region":"é"}}`,
	} {
		require.Equal(t, one, key(same), same)
	}
	seen := map[[2]uint64]string{one: "one"}
	for _, other := range []string{
		`{"id":"1","user":{"region":"é"}}`,
		`{"id":true,"user":{"region":"é"}}`,
		`{"id":9007199254740992,"user":{"region":"é"}}`,
		`{"id":9007199254740993,"user":{"region":"é"}}`,
		`{"id":"é","user":{"region":1}}`,
		`{"id":"a","user":{"region":"bc"}}`,
		`{"id":"ab","user":{"region":"c"}}`,
		`{"id":1,"user":{"region":["é"]}}`,
	} {
		k := key(other)
		require.NotContains(t, seen, k, other)
		seen[k] = other
	}
}

// The fingerprint is in the state of running pipelines: this test must not be changed to pass.
func TestFingerprintStays(t *testing.T) {
	p := newParser(t, nil, &controlv1.Dedup{Key: []string{"id"}})
	row, reject := p.Parse(record(`{"id":"0192f3a4"}`))
	require.Nil(t, reject)
	require.Equal(t, [2]uint64{0xd77a9b6a397f4bfb, 0xb472a07b23258224}, row.Key)
}

func TestMissingKey(t *testing.T) {
	for value, reason := range map[string]string{
		`{"a":1}`:                "missing key field",
		`{"a":1,"b":{}}`:         "missing key field",
		`{"a":1,"b":null}`:       "missing key field",
		`{"a":1,"b":{"c":null}}`: "missing key: the field is null",
	} {
		dedup := &controlv1.Dedup{Key: []string{"a", "b.c"}, Time: "at", Version: "v"}
		_, reject := newParser(t, nil, dedup).Parse(record(value))
		require.Equal(t, &Reject{Field: "b.c", Reason: reason}, reject)

		dedup.MissingKey = controlv1.MissingKey_PASS
		row, reject := newParser(t, nil, dedup).Parse(record(value))
		require.Nil(t, reject)
		require.True(t, row.NoKey)
		require.True(t, row.NoTime)
		require.Zero(t, row.Key)
	}
}

func TestTimeAndVersion(t *testing.T) {
	p := newParser(t, nil, &controlv1.Dedup{Key: []string{"id"}, Time: "$.at.time", Version: "v"})
	row, reject := p.Parse(record(`{"id":1,"at":{"time":"2026-01-31T12:34:56.789Z"},"v":-1}`))
	require.Nil(t, reject)
	require.EqualValues(t, 1769862896789, row.TimeMS)
	require.False(t, row.NoTime)
	require.Equal(t, uint64(1<<63-1), row.Version)

	for _, c := range []struct{ value, field, reason string }{
		{`{"id":1,"v":1}`, "at.time", "missing event time"},
		{`{"id":1,"at":{"time":null},"v":1}`, "at.time", "the event time is null"},
		{`{"id":1,"at":{"time":"soon"},"v":1}`, "at.time", `not a time: "soon", expected RFC 3339, YYYY-MM-DD hh:mm:ss or a Unix time`},
		{`{"id":1,"at":{"time":1}}`, "v", "missing version"},
		{`{"id":1,"at":{"time":1},"v":1.5}`, "v", "not a version: 1.5, expected a 64-bit integer or a time from 1678 to 2261"},
	} {
		_, reject := p.Parse(record(c.value))
		require.Equal(t, &Reject{c.field, c.reason}, reject, c.value)
	}
}

func TestWithoutDedup(t *testing.T) {
	row, reject := newParser(t, nil, nil).Parse(record(`{}`))
	require.Nil(t, reject)
	require.True(t, row.NoKey)
	require.True(t, row.NoTime)
}

func TestRecordsThatAreNotObjects(t *testing.T) {
	p := newParser(t, columnsOf("id|Int64", "name|String"), &controlv1.Dedup{Key: []string{"id"}})
	for value, want := range map[string]Reject{
		``:                             {"", "invalid JSON at byte 0: empty document"},
		`[{"id":1}]`:                   {"", `invalid JSON at byte 0: the document must be an object, found "["`},
		`{"id":1`:                      {"", "invalid JSON at byte 7: unexpected end of the document"},
		`{"id":1,"id":1}`:              {"id", `invalid JSON at byte 8: duplicate field "id"`},
		"{\"id\":1,\"name\":\"\xff\"}": {"name", "invalid JSON at byte 16: invalid UTF-8, found byte 0xff"},
		`{"x":` + strings.Repeat("[", 200) + strings.Repeat("]", 200) + `}`: {"", "invalid JSON at byte 132: nested deeper than 128 levels"},
	} {
		_, reject := p.Parse(record(value))
		require.Equal(t, &want, reject, value)
	}
}

func TestNewPlanNamesWhatIsWrong(t *testing.T) {
	_, err := NewPlan(columnsOf("id|Int65"), nil)
	require.ErrorContains(t, err, `column "id"`)
	_, err = NewPlan(nil, &controlv1.Dedup{Key: []string{"a\xff"}})
	require.ErrorContains(t, err, "UTF-8")
}
