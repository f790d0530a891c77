//go:build unix

package e2e

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"sluice/e2e/internal/stack"
	"sluice/e2e/internal/vega"
	"sluice/libs/playground/kafka/kafkatest"
)

const flightsTable = `CREATE TABLE flights (date String, origin LowCardinality(String), destination FixedString(3),
	distance UInt16, delay Int16) ENGINE = MergeTree ORDER BY (date, origin) SETTINGS non_replicated_deduplication_window = 1000`

type flight struct {
	Date        string `json:"date"`
	Origin      string `json:"origin"`
	Destination string `json:"destination"`
	Distance    int    `json:"distance"`
	Delay       int    `json:"delay"`
}

func (f flight) key() string { return f.Date + "|" + f.Origin + "|" + f.Destination }

// row is the flight as the table gives it back.
func (f flight) row() string {
	return fmt.Sprintf("%s|%s|%s|%d|%d", f.Date, f.Origin, f.Destination, f.Distance, f.Delay)
}

// Real input with random re-sends through real Kafka: every row of the table is one that an independent computation
// asks for, and every one that it asks for is there, once.
func TestFlights(t *testing.T) {
	const partitions = 4
	var records []json.RawMessage
	require.NoError(t, json.Unmarshal(vega.File(t, "data/flights-20k.json"), &records))
	require.Len(t, records, 20_000)

	kafka := kafkatest.StartReal(t, kafkatest.Options{})
	s := stack.Run(t, bin(t))
	table := stack.OpenSQL(t, s.ClickHouseAddr)
	table.Exec(flightsTable)
	producer := stack.NewProducer(t, kafka.Addr(), "flights", partitions)
	said := s.Apply(fmt.Sprintf(`
id: flights
source: {kafka: {brokers: ["%s"], topic: flights}}
dedup: {key: [date, origin, destination], window: 24h}
sink: {clickhouse: {addr: ["%s"], table: flights}}
`, kafka.Addr(), s.ClickHouseAddr))
	require.Contains(t, said, "exactly once")

	random := rand.New(rand.NewPCG(2001, 1))
	sent, want := 0, map[string]string{} // the first of a key wins; equal keys are in one partition, so there is a first
	send := func(record json.RawMessage) {
		var f flight
		require.NoError(t, json.Unmarshal(record, &f))
		if _, ok := want[f.key()]; !ok {
			want[f.key()] = f.row()
		}
		producer.Send(stack.PartitionOf(f.key(), partitions), nil, record)
		sent++
	}
	for i, record := range records {
		send(record)
		if random.IntN(10) == 0 {
			send(records[random.IntN(i+1)]) // any from before, most of them in an earlier batch
		}
		if random.IntN(20) == 0 {
			send(record) // again at once: in the same batch
		}
		if i%5000 == 4999 {
			producer.Flush() // ends the batches
		}
	}
	require.Len(t, want, 19_998)
	s.Wait("flights", 2*time.Minute)

	rows := make([]string, 0, len(want))
	for _, row := range want {
		rows = append(rows, row)
	}
	requireRows(t, rows, table.Rows("SELECT date, origin, destination, distance, delay FROM flights"))

	status := s.Status("flights")
	require.EqualValues(t, sent, status.RecordsIn)
	require.EqualValues(t, len(want), status.RowsOut)
	require.EqualValues(t, sent-len(want), status.Duplicates)
	require.Zero(t, status.DeadLetters)
	require.Zero(t, status.Tombstones)
	require.Empty(t, status.Errors)
	require.Equal(t, "RUNNING", status.State)
	require.Equal(t, "EXACTLY_ONCE", status.Guarantee.Level)
	require.Len(t, status.Owners("dedup"), 1)
	require.Equal(t, map[string]int{"sink": 4}, status.Owners("sink"))
}

// requireRows compares multisets and shows a few of what is missing or too much.
func requireRows(t *testing.T, want, got []string) {
	t.Helper()
	balance := map[string]int{}
	for _, row := range want {
		balance[row]++
	}
	for _, row := range got {
		balance[row]--
	}
	var wrong []string
	for row, n := range balance {
		switch {
		case n > 0:
			wrong = append(wrong, fmt.Sprintf("missing %d times: %.200s", n, row))
		case n < 0:
			wrong = append(wrong, fmt.Sprintf("too often by %d: %.200s", -n, row))
		}
	}
	slices.Sort(wrong)
	if len(wrong) > 0 {
		t.Fatalf("%d rows wanted, %d there; %d differ, such as %q", len(want), len(got), len(wrong), wrong[:min(len(wrong), 10)])
	}
}
