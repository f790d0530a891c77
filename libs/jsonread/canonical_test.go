package jsonread

import (
	"fmt"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

var canonicalCases = []struct {
	a, b string
	same bool
}{
	{`1`, `1.0`, true},
	{`1`, `1e0`, true},
	{`1`, `10e-1`, true},
	{`1`, `0.001E+3`, true},
	{`1`, `-1`, false},
	{`1`, `"1"`, false},
	{`1`, `true`, false},
	{`0`, `-0`, true},
	{`0`, `0.000e999999999999999999999`, true},
	{`100`, `1e2`, true},
	{`100`, `10`, false},
	{`120`, `12`, false},
	{`120`, `1.2e2`, true},
	{`0.05`, `5e-2`, true},
	{`1005`, `105`, false},
	{`10.05`, `1005e-2`, true},
	{`9007199254740993`, `9007199254740992`, false},
	{`9007199254740993`, `9007199254740993.0`, true},
	{`0.1`, `0.10000000000000000000000000000000000000001`, false},
	{`123456789012345678901234567890`, `12345678901234567890123456789e1`, true},
	{`1e999999999`, `10e999999998`, true},
	{`1e999999999`, `1e999999998`, false},
	{`1e-999999999`, `1e999999999`, false},
	{`1e99999999999999999`, `10e99999999999999998`, true},
	{`1e100000000000000000`, `10e99999999999999999`, true},
	{`1e-100000000000000000`, `0.1e-99999999999999999`, true},
	{`1e99999999999999999999999999`, `0.01e100000000000000000000000001`, true},
	{`1e100000000000000000000000000`, `1000e99999999999999999999999997`, true},
	{`1e-99999999999999999999999999`, `100e-100000000000000000000000001`, true},
	{`1e-0000000000000000000000000001`, `0.1`, true},
	{`1e00000000000000000000000000000000000000000002`, `100`, true},
	{`true`, `"true"`, false},
	{`null`, `"null"`, false},
	{`null`, `false`, false},
	{`"a"`, `"\u0061"`, true},
	{`"é"`, `"\u00E9"`, true},
	{`"é"`, `"e\u0301"`, false},
	{`"😀"`, `"\ud83d\uDE00"`, true},
	{`"/"`, `"\/"`, true},
	{`"a"`, `"A"`, false},
	{`""`, `" "`, false},
	{`[1,2]`, `[ 1.0 , 2e0 ]`, true},
	{`[1,2]`, `[2,1]`, false},
	{`[1,[2]]`, `[[1],2]`, false},
	{`[]`, `{}`, false},
	{`[12]`, `[1,2]`, false},
	{`["a","b"]`, `["a\",\"b"]`, false},
	{`{"a":1,"b":2}`, `{ "b":2.0, "\u0061":1 }`, true},
	{`{"a":1,"b":2}`, `{"a":2,"b":1}`, false},
	{`{"a":{"y":[],"x":null}}`, `{"a":{"x":null,"y":[ ]}}`, true},
	{`{"a":1}`, `{"a":1,"a":1}`, false},
}

func canonical(t *testing.T, value string) string {
	t.Helper()
	p, err := NewPlan([]string{"v"})
	require.NoError(t, err)
	out := make([]Value, 1)
	require.NoError(t, NewReader(p, Limits{}).Read([]byte(`{"v":`+value+`}`), out))
	return string(out[0].AppendCanonical([]byte("before")))[6:]
}

func TestCanonical(t *testing.T) {
	for _, c := range canonicalCases {
		a, b := canonical(t, c.a), canonical(t, c.b)
		require.Equal(t, c.same, a == b, "%s against %s: %q, %q", c.a, c.b, a, b)
	}
	require.NotEqual(t, canonical(t, `null`), string(Value{}.AppendCanonical(nil)))
}

// The form is in the state of running pipelines: this test must not be changed to pass.
func TestCanonicalFormStays(t *testing.T) {
	for value, want := range map[string]string{
		`null`:           "n\xff",
		`true`:           "t\xff",
		`false`:          "f\xff",
		`42`:             "+42\xff",
		`-1.50`:          "-15e-1\xff",
		`1200`:           "+12e2\xff",
		`0`:              "+0\xff",
		`"a\u00e9"`:      "saé\xff",
		`[1,"x"]`:        "a+1\xffsx\xff\xff",
		`{"b":[],"a":1}`: "osa\xff+1\xffsb\xffa\xff\xff",
	} {
		require.Equal(t, want, canonical(t, value), value)
	}
	require.Equal(t, "m\xff", string(Value{}.AppendCanonical(nil)))
}

// Keys of several fields are the concatenation of their parts: it must not matter where one ends.
func TestCanonicalIsSelfDelimiting(t *testing.T) {
	join := func(values ...string) (s string) {
		for _, v := range values {
			s += canonical(t, v)
		}
		return s
	}
	require.NotEqual(t, join(`"a"`, `"bc"`), join(`"ab"`, `"c"`))
	require.NotEqual(t, join(`1`, `23`), join(`12`, `3`))
	require.NotEqual(t, join(`[1]`, `2`), join(`[1,2]`, `2`))
	require.NotEqual(t, join(`"a"`, `"sb"`), join(`"as"`, `"b"`))
}

// Neither the exponent nor the nesting of a hostile value may cost more than its length.
func TestCanonicalIsBounded(t *testing.T) {
	start := time.Now()
	nines := strings.Repeat("9", 1_000_000)
	require.Less(t, len(canonical(t, "1e"+nines)), 1_000_010)
	require.Less(t, len(canonical(t, nines+"e-"+nines)), 2_000_020)
	var b strings.Builder
	for i := range 90_000 {
		fmt.Fprintf(&b, `"k%d":{"z":1},`, 90_000-i)
	}
	canonical(t, strings.Repeat(`[{"a":`, 60)+"["+strings.Repeat(`"xx",`, 200_000)+"1]"+strings.Repeat(`}]`, 60))
	p, err := NewPlan([]string{"v"})
	require.NoError(t, err)
	out := make([]Value, 1)
	require.NoError(t, NewReader(p, Limits{Keys: 200_000}).Read([]byte(`{"v":{`+b.String()+`"last":0}}`), out))
	out[0].AppendCanonical(nil)
	// Quadratic work on these would take many minutes.
	require.Less(t, time.Since(start), 2*time.Minute)
}

func TestCanonicalAllocatesNothingForScalars(t *testing.T) {
	buf := make([]byte, 0, 256)
	for _, value := range []string{`"0192f3a4"`, `"caf\u00e9"`, `12345`, `-1.50e7`, `true`, `[1,"a",[2]]`} {
		v, _ := valueAt([]byte(value), 0)
		require.Zero(t, testing.AllocsPerRun(100, func() { buf = v.AppendCanonical(buf[:0]) }), value)
	}
}

func TestIntegers(t *testing.T) {
	for _, c := range []struct {
		value string
		i     int64
		iErr  error
		u     uint64
		uErr  error
	}{
		{`0`, 0, nil, 0, nil},
		{`-0`, 0, nil, 0, nil},
		{`-0.0`, 0, nil, 0, nil},
		{`42`, 42, nil, 42, nil},
		{`-42`, -42, nil, 0, ErrRange},
		{`12.00`, 12, nil, 12, nil},
		{`1.2e1`, 12, nil, 12, nil},
		{`120e-1`, 12, nil, 12, nil},
		{`1.25e1`, 0, ErrNotInteger, 0, ErrNotInteger},
		{`0.5`, 0, ErrNotInteger, 0, ErrNotInteger},
		{`1e-1`, 0, ErrNotInteger, 0, ErrNotInteger},
		{`9007199254740993`, 9007199254740993, nil, 9007199254740993, nil},
		{`9223372036854775807`, math.MaxInt64, nil, math.MaxInt64, nil},
		{`9223372036854775807.0`, math.MaxInt64, nil, math.MaxInt64, nil},
		{`9223372036854775808`, 0, ErrRange, 1 << 63, nil},
		{`-9223372036854775808`, math.MinInt64, nil, 0, ErrRange},
		{`-9223372036854775809`, 0, ErrRange, 0, ErrRange},
		{`18446744073709551615`, 0, ErrRange, math.MaxUint64, nil},
		{`1844674407370955161.5e1`, 0, ErrRange, math.MaxUint64, nil},
		{`18446744073709551616`, 0, ErrRange, 0, ErrRange},
		{`1e19`, 0, ErrRange, 10000000000000000000, nil},
		{`1e20`, 0, ErrRange, 0, ErrRange},
		{`1e999999999999999999999`, 0, ErrRange, 0, ErrRange},
		{`1e-999999999999999999999`, 0, ErrNotInteger, 0, ErrNotInteger},
		{`0e999999999999999999999`, 0, nil, 0, nil},
		{`"1"`, 0, ErrNotNumber, 0, ErrNotNumber},
		{`null`, 0, ErrNotNumber, 0, ErrNotNumber},
	} {
		v, _ := valueAt([]byte(c.value), 0)
		i, err := v.Int64()
		require.Equal(t, c.iErr, err, c.value)
		require.Equal(t, c.i, i, c.value)
		u, err := v.Uint64()
		require.Equal(t, c.uErr, err, c.value)
		require.Equal(t, c.u, u, c.value)
	}
	_, err := Value{}.Int64()
	require.ErrorIs(t, err, ErrNotNumber)
}

func TestIterateStopsAtTheFirstError(t *testing.T) {
	stop := fmt.Errorf("stop")
	n := 0
	require.ErrorIs(t, Elements([]byte(`[1,2,3]`), func(Value) error { n++; return stop }), stop)
	require.ErrorIs(t, Fields([]byte(`{"a":1,"b":2}`), func([]byte, Value) error { n++; return stop }), stop)
	require.Equal(t, 2, n)
	require.Error(t, Elements([]byte(`{}`), nil))
	require.Error(t, Fields([]byte(`[]`), nil))
	require.Error(t, Elements([]byte(`[1`), func(Value) error { return nil }))
}
