//go:build unix

package e2e

import (
	"encoding/csv"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kgo"

	"sluice/e2e/internal/stack"
	"sluice/e2e/internal/vega"
	"sluice/libs/playground/kafka/kafkatest"
)

// joinStack is the whole of Sluice with the join stage, which can be killed.
type joinStack struct {
	*stack.Stack
	t *testing.T
}

func runJoinStack(t *testing.T) *joinStack {
	s := &joinStack{Stack: stack.Run(t, bin(t)), t: t}
	if s.Service("join") == nil {
		s.Scale("join", "join")
	}
	return s
}

// kill ends processes as kill -9 does and starts them again.
func (s *joinStack) kill(names ...string) {
	s.t.Helper()
	for _, name := range names {
		s.process(name).Kill()
	}
	for _, name := range names {
		s.process(name).Start()
	}
}

func (s *joinStack) process(name string) *stack.Process {
	if name == "nats" {
		return s.NATS
	}
	return s.Service(name)
}

// changeLanes gives a running pipeline so many lanes, as soon as an earlier change is finished.
func (s *joinStack) changeLanes(t *testing.T, pipeline string, lanes int) {
	t.Helper()
	stack.Await(t, 2*time.Minute, fmt.Sprintf("the pipeline takes %d lanes", lanes), func() (bool, any) {
		r := s.Run(pipeline+fmt.Sprintf("lanes: %d\n", lanes), "apply", "-f", "-")
		return r.Code == 0, r
	})
}

// awaitRows waits until a pipeline's table has at least n rows: rows of a join may have to wait for event time to go on.
func awaitRows(t *testing.T, cli *stack.CLI, table *stack.Table, pipeline, name string, n int) {
	t.Helper()
	stack.Await(t, 5*time.Minute, fmt.Sprintf("%d rows in %s", n, name), func() (bool, any) {
		have := table.Count(name)
		return have >= n, stack.Later(func() string { return fmt.Sprintf("%d rows\n%s", have, cli.Run("", "status", pipeline).Stdout) })
	})
}

// airports is the rows of airports.csv by their code.
func airports(t *testing.T) map[string]map[string]string {
	lines, err := csv.NewReader(strings.NewReader(string(vega.File(t, "data/airports.csv")))).ReadAll()
	require.NoError(t, err)
	out := map[string]map[string]string{}
	for _, line := range lines[1:] {
		row := map[string]string{}
		for i, name := range lines[0] {
			row[name] = line[i]
		}
		out[row["iata"]] = row
	}
	return out
}

// Flights looked up in the airports that they start from: real input, real Kafka, kills of every process in the middle. The table equals, row
// by row, what a map makes of it.
func TestJoinLookup(t *testing.T) {
	const (
		partitions = 4
		idle       = 20 * time.Second // the events are of long ago: for so long their producer may pause, which waits while lanes are changed
	)
	var flights []flight
	require.NoError(t, json.Unmarshal(vega.File(t, "data/flights-20k.json"), &flights))
	known := airports(t)
	require.Len(t, known, 3376)

	kafka := kafkatest.StartReal(t, kafkatest.Options{})
	s := runJoinStack(t)
	table := stack.OpenSQL(t, s.ClickHouseAddr)
	table.Exec(`CREATE TABLE starts (n UInt32, origin LowCardinality(String), destination FixedString(3), delay Int16,
		name String, city Nullable(String), lat Float64) ENGINE = MergeTree ORDER BY n SETTINGS non_replicated_deduplication_window = 1000`)
	begin := time.Now().Add(-time.Hour).Truncate(time.Second)
	right := stack.NewProducer(t, kafka.Addr(), "airports", 2)
	left := stack.NewProducer(t, kafka.Addr(), "starts", partitions)
	for code, a := range known {
		value, err := json.Marshal(map[string]any{"iata": code, "name": a["name"], "city": a["city"], "lat": json.Number(a["latitude"])})
		require.NoError(t, err)
		right.SendRecord(&kgo.Record{Partition: stack.PartitionOf(code, 2), Timestamp: begin, Value: value})
	}
	right.Flush()
	send := func(n int) {
		f := flights[n]
		value := fmt.Appendf(nil, `{"n":%d,"origin":%q,"destination":%q,"delay":%d}`, n, f.Origin, f.Destination, f.Delay)
		left.SendRecord(&kgo.Record{Partition: int32(n % partitions), Timestamp: begin.Add(time.Duration(n) * 10 * time.Millisecond), Value: value})
	}
	send(0)
	left.Flush()
	pipeline := fmt.Sprintf(`
id: starts
sources:
  starts: {kafka: {brokers: ["%[1]s"], topic: starts}}
  airports: {kafka: {brokers: ["%[1]s"], topic: airports}}
join: {left: starts, right: airports, on: [{left: origin, right: iata}], kind: LOOKUP, grace: 1s, idle: %[3]s}
sink: {clickhouse: {addr: ["%[2]s"], table: starts}}
`, kafka.Addr(), s.ClickHouseAddr, idle)
	s.Apply(pipeline)

	kills := [][]string{{"join"}, {"nats"}, {"ingestor", "join"}, {"join", "sink"}, {"ingestor", "join", "sink", "control"}}
	var want []string
	for n, f := range flights {
		if n > 0 {
			send(n)
		}
		a := known[f.Origin]
		require.NotNil(t, a, f.Origin)
		var lat float64
		_, err := fmt.Sscan(a["latitude"], &lat)
		require.NoError(t, err)
		want = append(want, fmt.Sprintf("%d|%s|%s|%d|%s|%s|%v", n, f.Origin, f.Destination, f.Delay, a["name"], a["city"], lat))
		if n%3500 == 3499 {
			left.Flush()
			s.kill(kills[n/3500%len(kills)]...)
		}
		if lanes := map[int]int{2000: 6, 12000: 3}[n]; lanes > 0 {
			s.changeLanes(t, pipeline, lanes)
		}
	}
	left.Flush()
	awaitRows(t, s.CLI, table, "starts", "starts", len(want))
	s.Wait("starts", 2*time.Minute)
	requireRows(t, want, table.Rows("SELECT n, origin, destination, delay, name, assumeNotNull(city), lat FROM starts"))
	status := s.Status("starts")
	require.Zero(t, status.DeadLetters)
	require.EqualValues(t, len(want)+len(known), status.RecordsIn)
	require.EqualValues(t, len(want), status.RowsOut)
}

// Flights, with duplicates that are dropped by another key than the join's, and a stream of delays by flight, both out of order: every pair within the
// window, and every flight without one, once; the last of them when both topics have fallen silent. What is late is a dead letter.
func TestJoinInterval(t *testing.T) {
	const (
		window = 10 * time.Second
		grace  = 20 * time.Second // the events are of long ago: for window + grace their producer may pause
		step   = 5 * time.Millisecond
	)
	var flights []flight
	require.NoError(t, json.Unmarshal(vega.File(t, "data/flights-20k.json"), &flights))
	begin := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	random := rand.New(rand.NewPCG(7, 7))

	kafka := kafkatest.StartReal(t, kafkatest.Options{})
	s := runJoinStack(t)
	table := stack.OpenSQL(t, s.ClickHouseAddr)
	table.Exec(`CREATE TABLE delayed (id UInt32, origin String, distance UInt16, seq Nullable(UInt32), minutes Int32, note String DEFAULT 'none')
		ENGINE = MergeTree ORDER BY id SETTINGS non_replicated_deduplication_window = 1000`)
	left, right := stack.NewProducer(t, kafka.Addr(), "delayed", 3), stack.NewProducer(t, kafka.Addr(), "delays", 2)

	// The two streams, by the time at which they are sent: event time and up to 2 s.
	type message struct {
		at        time.Time
		right     bool
		partition int32
		value     []byte
	}
	var messages []message
	format := func(at time.Time) string { return at.Format("2006-01-02T15:04:05.000Z") }
	later := func(at time.Time) time.Time { return at.Add(time.Duration(random.Int64N(int64(2 * time.Second)))) }
	type row struct {
		at   time.Time
		text string // as the table shows it
	}
	lefts, rights := map[string][]row{}, map[string][]row{}
	seq := 0
	for id, f := range flights {
		at := begin.Add(time.Duration(id) * step)
		key := fmt.Sprintf("%s %d é", f.Origin, id/100) // a few flights have the same
		lefts[key] = append(lefts[key], row{at, fmt.Sprintf("%d|%s|%d", id, f.Origin, f.Distance)})
		m := message{at: later(at), partition: int32(id % 3), value: fmt.Appendf(nil, `{"id":%d,"flight":{"key":%q},"origin":%q,"distance":%d,"at":%q}`,
			id, key, f.Origin, f.Distance, format(at))}
		messages = append(messages, m)
		if random.IntN(10) == 0 { // again: in the same partition, and later
			m.at = later(m.at)
			messages = append(messages, m)
		}
		for range random.IntN(3) {
			at := at.Add(time.Duration(random.Int64N(int64(3*window)) - int64(3*window/2)).Truncate(time.Millisecond))
			seq++
			note, shown := "", "none"
			if random.IntN(2) == 0 {
				shown = fmt.Sprintf("n%d", seq)
				note = fmt.Sprintf(`,"note":%q`, shown)
			}
			rights[key] = append(rights[key], row{at, fmt.Sprintf("%d|%d|%s", seq, -seq, shown)})
			value := fmt.Appendf(nil, `{"key":%q,"seq":%d,"minutes":%d,"when":%q%s}`, key, seq, -seq, format(at), note)
			messages = append(messages, message{at: later(at), right: true, partition: int32(seq % 2), value: value})
		}
	}
	var want []string
	for key, rows := range lefts {
		for _, l := range rows {
			met := false
			for _, r := range rights[key] {
				if l.at.Sub(r.at).Abs() <= window {
					want, met = append(want, l.text+"|"+r.text), true
				}
			}
			if !met {
				want = append(want, l.text+"|-1|0|none")
			}
		}
	}
	slices.SortStableFunc(messages, func(a, b message) int { return a.at.Compare(b.at) })
	send := func(m message) {
		p := left
		if m.right {
			p = right
		}
		p.SendRecord(&kgo.Record{Partition: m.partition, Value: m.value})
	}
	for _, m := range messages[:100] {
		send(m)
	}
	left.Flush()
	right.Flush()
	pipeline := fmt.Sprintf(`
id: delayed
sources:
  delayed: {kafka: {brokers: ["%[1]s"], topic: delayed}, time: at, dedup: {key: [id], window: 1h}}
  delays: {kafka: {brokers: ["%[1]s"], topic: delays}, time: when}
join: {left: delayed, right: delays, on: [{left: flight.key, right: key}], window: %[3]s, grace: %[4]s, type: LEFT}
columns:
- {name: seq, from: delays.seq}
sink: {clickhouse: {addr: ["%[2]s"], table: delayed}}
`, kafka.Addr(), s.ClickHouseAddr, window, grace)
	s.Apply(pipeline)
	kills := [][]string{{"join"}, {"dedup", "join"}, {"nats"}, {"ingestor", "dedup", "join", "sink", "control"}}
	for i, m := range messages[100:] {
		send(m)
		if i%8000 == 7999 {
			left.Flush()
			right.Flush()
			s.kill(kills[i/8000%len(kills)]...)
		}
		if lanes := map[int]int{5000: 7, 26000: 3}[i]; lanes > 0 {
			s.changeLanes(t, pipeline, lanes)
		}
	}
	left.Flush()
	right.Flush()
	awaitRows(t, s.CLI, table, "delayed", "delayed", len(want))
	s.Wait("delayed", 2*time.Minute)
	query := "SELECT id, origin, distance, ifNull(toInt64(seq), -1), minutes, note FROM delayed"
	requireRows(t, want, table.Rows(query))
	require.Empty(t, s.DeadLetters("delayed"))

	// Long before everything else: late, on both sides.
	late := [][]byte{[]byte(`{"id":99999,"flight":{"key":"late"},"origin":"XXX","distance":1,"at":"2025-12-31T00:00:00Z"}`), []byte(`{"key":"late","seq":1,"minutes":1,"when":"2025-12-31T00:00:00Z"}`)}
	left.SendRecord(&kgo.Record{Partition: 0, Value: late[0]})
	right.SendRecord(&kgo.Record{Partition: 1, Value: late[1]})
	left.Flush()
	right.Flush()
	var letters []stack.DeadLetter
	stack.Await(t, 2*time.Minute, "two dead letters", func() (bool, any) {
		letters = s.DeadLetters("delayed")
		return len(letters) >= 2, letters
	})
	require.Len(t, letters, 2)
	for _, l := range letters {
		require.Equal(t, "join", l.Stage)
		require.Contains(t, l.Reason, "late: ")
		require.Equal(t, string(late[map[string]int{"delayed": 0, "delays": 1}[l.Topic]]), string(l.Value))
	}
	requireRows(t, want, table.Rows(query))
}
