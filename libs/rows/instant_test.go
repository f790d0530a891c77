package rows

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"sluice/libs/jsonread"
)

func TestParseInstantAgreesWithTime(t *testing.T) {
	var when []time.Time
	for year := 1; year <= 9999; year += 7 {
		for _, md := range [][2]int{{1, 1}, {2, 28}, {3, 1}, {7, 31}, {12, 31}} {
			when = append(when, time.Date(year, time.Month(md[0]), md[1], year%24, year%60, (year*7)%60, year*99991%1e9, time.UTC))
		}
	}
	for year := 1896; year <= 2104; year += 4 {
		if year != 1900 && year != 2100 {
			when = append(when, time.Date(year, 2, 29, 23, 59, 59, 999999999, time.UTC))
		}
	}
	east := time.FixedZone("", 5*3600+45*60)
	for _, at := range when {
		for _, layout := range []string{time.RFC3339Nano, "2006-01-02T15:04:05.999999999", "2006-01-02 15:04:05.000000000", "2006-01-02 15:04:05.000000000Z"} {
			got, ok := parseInstant([]byte(at.Format(layout)))
			require.True(t, ok, at.Format(layout))
			require.Equal(t, instant{at.Unix(), int64(at.Nanosecond())}, got, at.Format(layout))
			require.Equal(t, at.UnixMilli(), got.milliseconds())
		}
		if y := at.In(east).Year(); y >= 1 && y <= 9999 {
			got, ok := parseInstant([]byte(at.In(east).Format(time.RFC3339Nano)))
			require.True(t, ok)
			require.Equal(t, at.Unix(), got.seconds)
		}
	}
}

func TestParseInstant(t *testing.T) {
	for text, want := range map[string]string{
		"2026-01-31":                           "2026-01-31T00:00:00Z",
		"2026-01-31 12:34":                     "2026-01-31T12:34:00Z",
		"2026-01-31t12:34:56z":                 "2026-01-31T12:34:56Z",
		"2026-01-31T12:34:56-0130":             "2026-01-31T14:04:56Z",
		"2026-01-31T00:00:00+23:59":            "2026-01-30T00:01:00Z",
		"2026-01-31T12:34:56.1234567899999999": "2026-01-31T12:34:56.123456789Z",
		"2016-12-31T23:59:60Z":                 "2017-01-01T00:00:00Z",
	} {
		at, err := time.Parse(time.RFC3339Nano, want)
		require.NoError(t, err)
		got, ok := parseInstant([]byte(text))
		require.True(t, ok, text)
		require.Equal(t, instant{at.Unix(), int64(at.Nanosecond())}, got, text)
	}
	for _, text := range []string{
		"", "2026", "2026-01", "2026-1-31", "2026-13-01", "2026-00-01", "2026-01-00", "2026-01-32", "2026-02-29",
		"1900-02-29", "2026-04-31", "2026/01/31", "20260131", "2026-01-31 ", "2026-01-31 1", "2026-01-31 12",
		"2026-01-31 12:3", "2026-01-31 24:00", "2026-01-31 12:60", "2026-01-31 12:34:", "2026-01-31 12:34:5",
		"2026-01-31 12:34:61", "2026-01-31 12:34:60", "2026-01-31 12:34:56.", "2026-01-31 12:34:56.Z",
		"2026-01-31 12:34:56 Z", "2026-01-31T12:34:56+", "2026-01-31T12:34:56+01", "2026-01-31T12:34:56+1:00",
		"2026-01-31T12:34:56+24:00", "2026-01-31T12:34:56+01:60", "2026-01-31T12:34:56+01:000", "2026-01-31T12:34:56Zx",
		"2026-01-31x12:34:56", "-026-01-31", "2026-01-31 12.34", "2026-01-31T12:34:56 Europe/Warsaw",
	} {
		_, ok := parseInstant([]byte(text))
		require.False(t, ok, text)
	}
}

func TestEventTime(t *testing.T) {
	for _, c := range []struct {
		value string
		want  int64
	}{
		{`1769862896`, 1769862896000},
		{`1769862896.5`, 1769862896500},
		{`1769862896.7899`, 1769862896789},
		{`1.769862896e9`, 1769862896000},
		{`1769862896789`, 1769862896789},
		{`1769862896789.9`, 1769862896789},
		{`1769862896789123`, 1769862896789},
		{`1769862896789123456`, 1769862896789},
		{`0`, 0},
		{`-1`, -1000},
		{`-0.5`, -500},
		{`-1.5`, -1500},
		{`99999999999`, 99999999999000},
		{`100000000000`, 100000000000},
		{`"2026-01-31T12:34:56.789Z"`, 1769862896789},
		{`"2026-01-31 12:34:56.789"`, 1769862896789},
		{`"2026-01-31T14:34:56.789+02:00"`, 1769862896789},
		{`"\u0032026-01-31 12:34:56.7891"`, 1769862896789},
		{`"1969-12-31T23:59:59.999Z"`, -1},
		{`"1769862896"`, 1769862896000},
		{`"1769862896.789"`, 1769862896789},
		{`"1769862896789"`, 1769862896789},
		{`"\u0031769862896789"`, 1769862896789},
		{`"1769862896789123"`, 1769862896789},
		{`"1769862896789123456"`, 1769862896789},
	} {
		got, reason := new(Parser).eventTime(valueOf(t, c.value))
		require.Empty(t, reason, c.value)
		require.Equal(t, c.want, got, c.value)
	}
	for _, value := range []string{`null`, `true`, `"yesterday"`, `""`, `1e300`, `-9223372036854775808`,
		`1.5e-3`, `9223372036854775808`, `[]`, `{}`, `"20260131"`, `"202601311234"`, `"20260131123456"`, `"17698628967"`, `"0769862896"`, `"+769862896"`,
		`"-1769862896"`, `"1769862896."`, `"1769862896.5e3"`, `"1769862896 "`, `"1.769862e9"`, `"9223372036854775808"`} {
		_, reason := new(Parser).eventTime(valueOf(t, value))
		require.NotEmpty(t, reason, value)
	}
}

// Versions that rise must give rising numbers, and times be told apart to the nanosecond.
func TestVersionKeepsTheOrder(t *testing.T) {
	for _, rising := range [][]string{
		{`-9223372036854775808`, `-1`, `"0"`, `1`, `1.0e1`, `"11"`, `9007199254740992`, `9007199254740993`, `9223372036854775807`},
		{`"1678-01-01"`, `"1969-12-31T23:59:59.999999999Z"`, `"1970-01-01"`, `"2026-01-31 12:34:56"`,
			`"2026-01-31T12:34:56.000000001Z"`, `"2026-01-31T12:34:57+00:00"`, `"2026-01-31T11:34:58-01:00"`, `"2261-12-31T23:59:59Z"`},
	} {
		last := uint64(0)
		for i, value := range rising {
			version, reason := new(Parser).versionOf(valueOf(t, value))
			require.Empty(t, reason, value)
			require.True(t, i == 0 || version > last, "%s after %s", value, rising[max(i-1, 0)])
			last = version
		}
	}
	for _, value := range []string{`null`, `1.5`, `true`, `"a"`, `""`, `"+1"`, `"1.0"`, `9223372036854775808`,
		`"9223372036854775808"`, `"0001-01-01"`, `"9999-12-31"`, `[1]`} {
		_, reason := new(Parser).versionOf(valueOf(t, value))
		require.NotEmpty(t, reason, value)
	}
}

func valueOf(t *testing.T, value string) jsonread.Value {
	t.Helper()
	plan, err := jsonread.NewPlan([]string{"v"})
	require.NoError(t, err)
	out := make([]jsonread.Value, 1)
	require.NoError(t, jsonread.NewReader(plan, jsonread.Limits{}).Read(fmt.Appendf(nil, `{"v":%s}`, value), out))
	return out[0]
}
