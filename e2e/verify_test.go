//go:build unix

package e2e

import (
	"encoding/json"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"sluice/e2e/internal/stack"
	"sluice/libs/playground/kafka/kafkatest"
)

const (
	different  = 6
	incomplete = 7
)

// verdict is the part of `verify -o json` that scripts rely on.
type verdict struct {
	Verdict    string
	Findings   []string
	Limits     []string
	Partitions []struct {
		Partition                                                int32
		Records, Tombstones, Written, Refused, Dropped, Checksum uint64
		DeadLetters                                              uint64 `json:"dead_letters"`
	}
	Lanes []struct {
		Stage      string
		Duplicates uint64
		RowsIn     uint64 `json:"rows_in"`
		RowsOut    uint64 `json:"rows_out"`
	}
	Table struct {
		Name           string
		Rows, Checksum uint64
		WrittenRows    uint64 `json:"written_rows"`
	}
	Differences []struct {
		Kind      string
		Topic     string
		Partition int32
		Offset    int64
		Row       string
		Count     uint64
	}
	MoreDifferences bool `json:"more_differences"`
}

func verify(t *testing.T, cli *stack.CLI, code int, args ...string) (v verdict) {
	t.Helper()
	r := cli.Run("", append([]string{"verify", "events", "-o", "json"}, args...)...)
	require.Equal(t, code, r.Code, "verify %v:\n%s%s", args, r.Stdout, r.Stderr)
	require.NoError(t, json.Unmarshal([]byte(r.Stdout), &v))
	return v
}

// at is where an event stands in Kafka.
type at struct {
	partition int32
	offset    int64
}

// The audit finds every row that is changed, removed or added by hand, names the record that it was made of, and says
// equal of whatever the pipeline itself has been through.
func TestVerify(t *testing.T) {
	const partitions = 3
	kafka := kafkatest.StartReal(t, kafkatest.Options{})
	s := stack.Run(t, bin(t))
	table := stack.OpenSQL(t, s.ClickHouseAddr)
	table.Exec(`CREATE TABLE events (id String, n UInt64, text String, tags Array(LowCardinality(String)), price Decimal(18, 2), at DateTime64(3),
		note Nullable(String), attributes Map(String, Int64), part Int32, seen DateTime DEFAULT now(), CONSTRAINT small CHECK n < 1000000)
		ENGINE = MergeTree ORDER BY id SETTINGS non_replicated_deduplication_window = 1000`)
	producer := stack.NewProducer(t, kafka.Addr(), "events", partitions)
	var offsets [partitions]int64
	first := map[string]at{}
	send := func(id, value string) {
		p := stack.PartitionOf(id, partitions)
		if _, ok := first[id]; !ok {
			first[id] = at{p, offsets[p]}
		}
		offsets[p]++
		if value == "" {
			producer.Send(p, []byte(id), nil)
			return
		}
		producer.Send(p, []byte(id), []byte(value))
	}
	event := func(n int) {
		id := fmt.Sprintf("event-%d", n)
		note := "null"
		if n%3 == 0 {
			note = fmt.Sprintf(`"note %d"`, n%7)
		}
		send(id, fmt.Sprintf(`{"id":%q,"n":%d,"text":"payload of %d","tags":["a","t%d"],"price":"%d.50","at":"2026-01-31T12:00:00.%03dZ","note":%s,"attributes":{"k":%d}}`,
			id, n, n, n%5, n%100, n%1000, note, n))
	}
	sent := 0
	produce := func(n int) {
		for range n {
			event(sent)
			if sent%4 == 1 {
				event(sent / 2) // a duplicate
			}
			switch sent % 500 {
			case 100:
				send(fmt.Sprintf("bad-%d", sent), `{"id":"bad","n":-1}`)
			case 200:
				send(fmt.Sprintf("gone-%d", sent), "")
			case 300:
				send(fmt.Sprintf("refused-%d", sent), fmt.Sprintf(`{"id":"refused-%d","n":%d,"text":"","tags":[],"price":1,"at":0,"attributes":{}}`, sent, 1000000+sent))
			}
			sent++
		}
		producer.Flush()
	}
	s.Apply(fmt.Sprintf(`
id: events
source: {kafka: {brokers: ["%s"], topic: events}}
dedup: {key: [id], window: 24h}
sink: {clickhouse: {addr: ["%s"], table: events}}
columns: [{name: part, from: $partition}]
batch: {max_delay: 50ms}
`, kafka.Addr(), s.ClickHouseAddr))
	cli := s.CLI
	require.Equal(t, "EQUAL", verify(t, cli, 0).Verdict, "of nothing")

	// Everything is killed while events flow.
	for _, process := range s.Processes() {
		produce(1000)
		process.Kill()
		process.Start()
	}
	produce(1000)
	for _, name := range []string{"ingestor", "dedup", "sink", "control"} {
		s.WaitReady(name)
	}
	s.Wait("events", 2*time.Minute)
	requireCounts(t, verify(t, cli, 0), uint64(sent), sent)

	t.Run("usage", func(t *testing.T) {
		r := cli.Run("", "verify", "events")
		require.Zero(t, r.Code, r.Stderr)
		require.Contains(t, r.Stdout, "EQUAL")
		require.Contains(t, r.Stdout, "limit: column seen is not compared: it has a DEFAULT")
		require.Contains(t, r.Stderr, "reading the table")
		require.Equal(t, notFound, cli.Run("", "verify", "absent").Code)
		r = cli.Run("", "verify", "events", "--where", "nonsense =")
		require.Equal(t, usage, r.Code, r.Stderr)
		require.Contains(t, r.Stderr, "where: nonsense =")
	})

	locate := func(v verdict, kind, id string) {
		t.Helper()
		for _, d := range v.Differences {
			if d.Kind == kind && (at{d.Partition, d.Offset}) == first[id] && d.Topic == "events" {
				return
			}
		}
		t.Errorf("%s of %s at %+v is not told: %+v", kind, id, first[id], v.Differences)
	}
	const columns = "id, n, text, tags, price, at, note, attributes, part"
	table.Exec("CREATE TABLE kept ENGINE = MergeTree ORDER BY id AS SELECT * FROM events")
	restore := func(where string) {
		t.Helper()
		table.Exec("INSERT INTO events (" + columns + ") SELECT " + columns + " FROM kept WHERE " + where)
	}

	// Deleted, in both ways that there are, and put back.
	table.Exec("DELETE FROM events WHERE id = 'event-5'")
	table.Exec("ALTER TABLE events DELETE WHERE id IN ('event-77', 'event-78') SETTINGS mutations_sync = 2")
	v := verify(t, cli, different)
	require.Equal(t, "DIFFERENT", v.Verdict)
	require.Len(t, v.Differences, 3)
	require.False(t, v.MoreDifferences)
	for _, id := range []string{"event-5", "event-77", "event-78"} {
		locate(v, "MISSING", id)
	}
	require.Contains(t, strings.Join(v.Findings, "\n"), fmt.Sprintf("it has %d and %d were written", sent-3, sent))
	restore("id IN ('event-5', 'event-77', 'event-78')")
	verify(t, cli, 0)

	// Inserted a second time, one of them twice.
	restore("id = 'event-9'")
	restore("id IN ('event-9', 'event-10')")
	v = verify(t, cli, different)
	require.Len(t, v.Differences, 2)
	locate(v, "EXTRA", "event-9")
	locate(v, "EXTRA", "event-10")
	for _, d := range v.Differences {
		var row struct {
			ID string
			N  uint64
		}
		require.NoError(t, json.Unmarshal([]byte(d.Row), &row))
		require.Equal(t, fmt.Sprintf("event-%d", row.N), row.ID)
		require.Equal(t, map[uint64]uint64{9: 2, 10: 1}[row.N], d.Count)
	}
	table.Exec("ALTER TABLE events DELETE WHERE id IN ('event-9', 'event-10') SETTINGS mutations_sync = 2")
	restore("id IN ('event-9', 'event-10') AND 1 = 1")
	verify(t, cli, 0)

	// Changed: the row that was written is missing, another is there that no record makes.
	table.Exec("ALTER TABLE events UPDATE text = 'forged' WHERE id = 'event-11' SETTINGS mutations_sync = 2")
	v = verify(t, cli, different)
	require.Len(t, v.Differences, 2)
	locate(v, "MISSING", "event-11")
	require.Equal(t, "EXTRA", v.Differences[1].Kind)
	require.EqualValues(t, -1, v.Differences[1].Partition)
	require.Contains(t, v.Differences[1].Row, `"text":"forged"`)
	table.Exec("ALTER TABLE events UPDATE text = 'payload of 11' WHERE id = 'event-11' SETTINGS mutations_sync = 2")
	verify(t, cli, 0)

	// Two rows have swapped a value: all sums by column are what they were.
	swap := "ALTER TABLE events UPDATE n = 12 + 13 - n WHERE id IN ('event-12', 'event-13') SETTINGS mutations_sync = 2"
	table.Exec(swap)
	v = verify(t, cli, different)
	require.Len(t, v.Differences, 4)
	locate(v, "MISSING", "event-12")
	locate(v, "MISSING", "event-13")
	require.Contains(t, strings.Join(v.Findings, "\n"), "but others")
	table.Exec(swap)
	verify(t, cli, 0)

	// Rows of somebody else.
	table.Exec("INSERT INTO events (id, n, text) VALUES ('foreign', 1, 'other')")
	v = verify(t, cli, different)
	require.Len(t, v.Differences, 1)
	require.Contains(t, v.Differences[0].Row, "foreign")
	verify(t, cli, 0, "--where", "text != 'other' -- the pipeline's own")
	table.Exec("ALTER TABLE events DELETE WHERE text = 'other' SETTINGS mutations_sync = 2")

	// The pipeline goes on: an audit of a running pipeline raises no false alarm, and finds what is wrong.
	var stop atomic.Bool
	done := make(chan struct{})
	go func() {
		defer close(done)
		pace := time.NewTicker(50 * time.Millisecond)
		defer pace.Stop()
		for !stop.Load() {
			produce(5)
			<-pace.C
		}
	}()
	verdicts := map[int]int{}
	for range 4 {
		r := cli.Run("", "verify", "events")
		require.NotEqual(t, different, r.Code, "%s%s", r.Stdout, r.Stderr)
		verdicts[r.Code]++
	}
	t.Logf("while rows were written: exit codes %v", verdicts)
	table.Exec("DELETE FROM events WHERE id = 'event-21'")
	r := cli.Run("", "verify", "events")
	require.Contains(t, []int{different, incomplete}, r.Code, "%s%s", r.Stdout, r.Stderr)
	t.Logf("while rows were written and one was deleted: exit code %d", r.Code)
	restore("id = 'event-21'")
	stop.Store(true)
	<-done
	s.Wait("events", 120*time.Second)

	// Paused with records that were not read yet.
	cli.Do("pause", "events")
	require.Eventually(t, func() bool { return cli.Status("events").State == "PAUSED" }, 2*time.Minute, 50*time.Millisecond)
	produce(100)
	stack.Await(t, 2*time.Minute, "the table is equal", func() (bool, any) {
		r := cli.Run("", "verify", "events")
		return r.Code == 0, r
	})
	cli.Do("resume", "events")
	s.Wait("events", 2*time.Minute)
	requireCounts(t, verify(t, cli, 0), uint64(sent), sent)

	// Far more than can be told one by one.
	table.Exec("ALTER TABLE events DELETE WHERE n % 2 = 0 SETTINGS mutations_sync = 2")
	v = verify(t, cli, different)
	require.True(t, v.MoreDifferences)
	require.Contains(t, strings.Join(v.Findings, "\n"), fmt.Sprintf("it has %d and %d were written", sent/2, sent))
	table.Exec("DROP TABLE events")
	v = verify(t, cli, different)
	require.Contains(t, v.Findings[0], "does not exist")
}

// requireCounts checks that what came in is accounted for.
func requireCounts(t *testing.T, v verdict, rows uint64, events int) {
	t.Helper()
	require.Equal(t, "EQUAL", v.Verdict)
	require.Equal(t, "default.events", v.Table.Name)
	require.Equal(t, rows, v.Table.Rows)
	require.Equal(t, rows, v.Table.WrittenRows)
	require.Len(t, v.Partitions, 3)
	var written, checksum, dropped, refused, letters, tombstones uint64
	for _, p := range v.Partitions {
		require.Equal(t, p.Records, p.Tombstones+p.DeadLetters+p.Written+p.Refused+p.Dropped, "%+v", p)
		written += p.Written
		checksum += p.Checksum
		dropped += p.Dropped
		refused += p.Refused
		letters += p.DeadLetters
		tombstones += p.Tombstones
	}
	require.Equal(t, rows, written)
	require.Equal(t, v.Table.Checksum, checksum)
	count := func(every, at int) (n uint64) {
		for i := range events {
			if i%every == at {
				n++
			}
		}
		return n
	}
	require.Equal(t, count(4, 1), dropped)
	require.Equal(t, count(500, 100), letters)
	require.Equal(t, count(500, 200), tombstones)
	require.Equal(t, count(500, 300), refused)
	var duplicates, out uint64
	for _, l := range v.Lanes {
		duplicates += l.Duplicates
		if l.Stage == "sink" {
			out += l.RowsOut
		}
	}
	require.Equal(t, dropped, duplicates)
	require.Equal(t, rows, out)
	require.Len(t, v.Limits, 1, "%v", v.Limits)
}
