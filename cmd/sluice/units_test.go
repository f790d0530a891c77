package main

import (
	"bytes"
	"encoding/json"
	"io"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	controlv1 "sluice/gen/sluice/control/v1"
	"sluice/libs/playground/clickhouse/clickhousetest"
)

const (
	waitFor = 2 * time.Minute
	poll    = 10 * time.Millisecond
)

func TestJSONIsExactAndComplete(t *testing.T) {
	b, err := marshalJSON(&controlv1.PipelineStatus{
		Id: "a<b", State: controlv1.PipelineStatus_RUNNING, RecordsIn: math.MaxUint64, Errors: []string{"x\ny"},
		Lanes: []*controlv1.LaneStatus{{Stage: "sink", Lag: 1<<53 + 1}},
	})
	require.NoError(t, err)
	require.True(t, json.Valid(b), "%s", b)
	for _, want := range []string{
		`"id":"a<b"`, `"state":"RUNNING"`, `"records_in":18446744073709551615`, `"lag":9007199254740993`, `"duplicates":0`,
		`"errors":["x\ny"]`, `"tombstones":0`,
	} {
		require.Contains(t, string(b), want)
	}
	require.NotContains(t, string(b), "guarantee", "a message that is not there is left out")

	b, err = marshalJSON(&controlv1.PipelineRecord{
		CreateTime:   timestamppb.New(time.Date(2026, 1, 31, 0, 0, 0, 0, time.UTC)),
		StartOffsets: &controlv1.StartOffsets{TopicId: []byte{1, 2}, Offsets: map[int32]int64{1: math.MinInt64, 0: 5}},
		Spec:         &controlv1.Pipeline{Dedup: &controlv1.Dedup{Window: durationpb.New(time.Hour)}},
	})
	require.NoError(t, err)
	require.True(t, json.Valid(b), "%s", b)
	for _, want := range []string{`"create_time":"2026-01-31T00:00:00Z"`, `"topic_id":"AQI="`,
		`"offsets":{"0":5,"1":-9223372036854775808}`, `"window":"3600s"`} {
		require.Contains(t, string(b), want)
	}
	var yaml bytes.Buffer
	require.NoError(t, writeJSON(&yaml, "yaml", []byte(`{"a":18446744073709551615,"b":["x"]}`)))
	require.Contains(t, yaml.String(), "18446744073709551615\n")
	require.NotContains(t, yaml.String(), "{")
}

// A pipeline with a join says how many rows have met and where each side stands; others say nothing of it.
func TestStatusShowsWhatNoLongerHolds(t *testing.T) {
	var out bytes.Buffer
	require.NoError(t, printStatus(&out, &controlv1.PipelineStatus{
		Id: "p", State: controlv1.PipelineStatus_RUNNING, Guarantee: &controlv1.Guarantee{Level: controlv1.Guarantee_AT_LEAST_ONCE},
		Warnings: []string{"at least once, no longer exactly once as when it was applied: why"},
	}))
	require.Regexp(t, `guarantee +at least once\nwarning: at least once, no longer exactly once as when it was applied: why\n`, out.String())
}

func TestStatusOfAJoin(t *testing.T) {
	var out bytes.Buffer
	require.NoError(t, printStatus(&out, &controlv1.PipelineStatus{
		Id: "enriched", Matched: 1234, Unmatched: 5, Late: 1, Dropped: 2, BufferedRows: map[string]uint64{"users": 7, "orders": 12345},
		Watermarks: map[string]*timestamppb.Timestamp{"orders": timestamppb.New(time.Date(2026, 1, 31, 0, 0, 0, 5e6, time.UTC))},
		Lanes:      []*controlv1.LaneStatus{{Stage: "ingest", Unit: "orders-3"}, {Stage: "join", Unit: "0"}},
	}))
	for _, line := range []string{
		"join          1,234 matched, 5 unmatched, 1 late, 2 dropped\n",
		"  orders      12,345 waiting, watermark 2026-01-31T00:00:00.005Z\n",
		"  users       7 waiting, watermark none yet\n", "orders-3",
	} {
		require.Contains(t, out.String(), line)
	}
	out.Reset()
	require.NoError(t, printStatus(&out, &controlv1.PipelineStatus{Id: "plain", Lanes: []*controlv1.LaneStatus{{Stage: "sink"}}}))
	require.NotContains(t, out.String(), "matched")
	require.Equal(t, "orders+users", topics(&controlv1.Pipeline{
		Sources: map[string]*controlv1.Source{
			"o": {Kafka: &controlv1.KafkaSource{Topic: "orders"}}, "u": {Kafka: &controlv1.KafkaSource{Topic: "users"}},
		},
		Join: &controlv1.Join{Left: "o", Right: "u"},
	}))
}

func TestGeneratorMakesWhatItSays(t *testing.T) {
	g := generator{events: 50_000, duplicates: 5_000, seed: 7}
	firstAt := map[int]int64{}
	var nearby, far, records, duplicates int
	var log [2]bytes.Buffer
	for i := range log {
		require.NoError(t, g.each(func(n int, first bool, millis int64) error {
			e := g.event(n)
			line := e.appendJSON(nil, millis)
			if !json.Valid(line) {
				t.Fatalf("not JSON: %s", line)
			}
			log[i].Write(line)
			if i > 0 {
				return nil
			}
			records++
			at, seen := firstAt[n]
			require.Equal(t, !seen, first)
			if first {
				firstAt[n] = millis
				return nil
			}
			duplicates++
			if d := time.Duration(millis-at) * time.Millisecond; d < time.Second {
				nearby++
			} else if d > 50*time.Second {
				far++
			}
			return nil
		}))
	}
	require.Equal(t, g.events, records)
	require.Equal(t, g.duplicates, duplicates)
	require.Greater(t, nearby, duplicates/3)
	require.Greater(t, far, duplicates/5)
	require.Equal(t, log[0].String(), log[1].String(), "the same seed makes the same events")
	ids := map[string]bool{}
	for n := range len(firstAt) {
		ids[g.event(n).id] = true
	}
	require.Len(t, ids, len(firstAt))
}

func TestReportFindsEveryDifference(t *testing.T) {
	g := generator{events: 10, duplicates: 1}
	want := truth{rows: 9, sum: 5, xor: 6}
	right := found{rows: 9, distinct: 9, sum: 5, xor: 6}
	status := func() *controlv1.PipelineStatus {
		return &controlv1.PipelineStatus{RecordsIn: 10, Duplicates: 1, RowsOut: 9}
	}
	ok, err := report(io.Discard, g, want, right, status())
	require.NoError(t, err)
	require.True(t, ok)
	for name, spoil := range map[string]func(*found, *controlv1.PipelineStatus){
		"rows":       func(f *found, _ *controlv1.PipelineStatus) { f.rows++ },
		"distinct":   func(f *found, _ *controlv1.PipelineStatus) { f.distinct-- },
		"duplicated": func(f *found, _ *controlv1.PipelineStatus) { f.duplicated++ },
		"sum":        func(f *found, _ *controlv1.PipelineStatus) { f.sum++ },
		"xor":        func(f *found, _ *controlv1.PipelineStatus) { f.xor++ },
		"in":         func(_ *found, s *controlv1.PipelineStatus) { s.RecordsIn++ },
		"dropped":    func(_ *found, s *controlv1.PipelineStatus) { s.Duplicates++ },
		"out":        func(_ *found, s *controlv1.PipelineStatus) { s.RowsOut++ },
		"letters":    func(_ *found, s *controlv1.PipelineStatus) { s.DeadLetters++ },
	} {
		f, s := right, status()
		spoil(&f, s)
		ok, err := report(io.Discard, g, want, f, s)
		require.NoError(t, err)
		require.False(t, ok, name)
	}
}

func TestDemoProvesItself(t *testing.T) {
	clickhousetest.Library(t)
	code, stdout, stderr := sluice(t, "", "demo", "--events", "30000", "--seed", "3")
	require.Zero(t, code, "%s%s", stdout, stderr)
	lines := strings.Split(strings.TrimSpace(stdout), "\n")
	require.Equal(t, "PASS", lines[len(lines)-1])
}

func TestLag0IsNotTrustedWhenKafkaIsAway(t *testing.T) {
	require.True(t, settled(&controlv1.PipelineStatus{Errors: []string{"dedup lane 1: waits for NATS"}}))
	require.False(t, settled(&controlv1.PipelineStatus{Errors: []string{"the lag is as last known: no broker answers"}}))
	require.False(t, settled(&controlv1.PipelineStatus{State: controlv1.PipelineStatus_DELETING}))
}
