//go:build unix

package e2e

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"sluice/e2e/internal/stack"
	"sluice/libs/playground/kafka/kafkatest"
)

// An earlier copy of a stream, and of the whole store of NATS, is put back while nothing runs, when the table has long forgotten the blocks that
// it had since. At the end the rows are the first occurrences, each once, and the status says what was lost.
func TestAnEarlierCopyIsPutBack(t *testing.T) {
	const partitions = 2
	kafka := kafkatest.StartReal(t, kafkatest.Options{})
	s := stack.Run(t, bin(t))
	table := stack.OpenSQL(t, s.ClickHouseAddr)
	table.Exec(`CREATE TABLE events (id String, n UInt64, text String, CONSTRAINT small CHECK n < 1000000000) ENGINE = MergeTree ORDER BY id
		SETTINGS non_replicated_deduplication_window = 2`)
	producer := stack.NewProducer(t, kafka.Addr(), "events", partitions)
	apply := func(window string) {
		s.Apply(fmt.Sprintf(`
id: events
source: {kafka: {brokers: ["%s"], topic: events}}
dedup: {key: [id], window: %s}
sink: {clickhouse: {addr: ["%s"], table: events}}
batch: {max_delay: 20ms}
`, kafka.Addr(), window, s.ClickHouseAddr))
	}
	apply("24h")
	n, first := 0, map[string]string{}
	send := func(events int) {
		for range events {
			n++
			key := fmt.Sprintf("event-%d", n*7919%(n/2+10)) // about half are of keys from before
			if _, ok := first[key]; !ok {
				first[key] = fmt.Sprintf("%s|%d|payload of %d", key, n, n)
			}
			producer.Send(stack.PartitionOf(key, partitions), []byte(key), fmt.Appendf(nil, `{"id":%q,"n":%d,"text":"payload of %d"}`, key, n, n))
		}
		producer.Flush()
		s.Wait("events", 2*time.Minute)
	}
	letters := 0
	refused := func() { // one by the ingestor, one by the table
		n++
		key := fmt.Sprintf("refused-%d", n)
		producer.Send(0, []byte(key), fmt.Appendf(nil, `{"id":%q,"n":"none","text":""}`, key))
		producer.Send(1, []byte(key), fmt.Appendf(nil, `{"id":%q,"n":%d,"text":""}`, key, 2_000_000_000+n))
		letters += 2
	}
	store := &natsStore{t: t, Stack: s, services: stack.Services}
	check := func(after string) {
		t.Helper()
		var want []string
		for _, row := range first {
			want = append(want, row)
		}
		requireRows(t, want, table.Rows("SELECT id, n, text FROM events"))
		require.Len(t, s.DeadLetters("events"), letters, after)
	}
	send(1000)
	for _, what := range []struct{ name, stream, says string }{
		{"the state", "KV_sluice_events_state", "went back"},
		{"the registry", "KV_sluice_pipelines", ""},
		{"the dead letters", "sluice_events_dlq", "made anew from Kafka"},
		{"the ingest log", "sluice_events_ingest", "lost its tail"},
		{"the dedup log", "sluice_events_dedup", "lost its tail"},
		{"everything", "", "the store went back"},
	} {
		earlier := store.copy()
		switch what.stream {
		case "KV_sluice_pipelines":
			apply("25h")
		case "sluice_events_dlq":
			for range 3 {
				refused()
			}
		}
		for range 4 {
			send(250) // many blocks
		}
		store.putBack(earlier, what.stream)
		send(500)
		if what.stream == "sluice_events_dlq" {
			stack.Await(t, 2*time.Minute, "all letters are there again", func() (bool, any) {
				there := len(s.DeadLetters("events"))
				return there >= letters, there
			})
		}
		if what.stream == "KV_sluice_pipelines" {
			stack.Await(t, 2*time.Minute, "the last change of the pipeline is there again", func() (bool, any) {
				now := s.Do("get", "events", "-o", "yaml")
				return strings.Contains(now, "window: 90000s"), now
			})
		}
		check(what.name)
		stack.Await(t, 2*time.Minute, "the status says what was found after the loss of "+what.name, func() (bool, any) {
			errors := strings.Join(s.Status("events").Errors, "\n")
			return strings.Contains(errors, what.says), errors
		})
	}
}

// natsStore is what NATS keeps on disk, under a stack whose processes stand still while it is touched.
type natsStore struct {
	*stack.Stack
	t        *testing.T
	services []string
}

func (n *natsStore) down() {
	n.t.Helper()
	for _, name := range n.services {
		require.Zero(n.t, n.Service(name).Stop())
	}
	n.NATS.Stop()
}

func (n *natsStore) up() {
	n.t.Helper()
	n.NATS.Start()
	for _, name := range n.services {
		n.Service(name).Start()
	}
	for _, name := range n.services {
		n.WaitReady(name)
	}
}

// copy returns a copy of the store as it is.
func (n *natsStore) copy() (earlier string) {
	n.t.Helper()
	n.down()
	defer n.up()
	earlier = filepath.Join(n.t.TempDir(), "earlier")
	require.NoError(n.t, os.CopyFS(earlier, os.DirFS(n.NATSDir)))
	return earlier
}

// putBack puts a stream of an earlier copy in the place of what it is now; "": all of the store.
func (n *natsStore) putBack(earlier, stream string) {
	n.t.Helper()
	n.down()
	defer n.up()
	from, to := earlier, n.NATSDir
	if stream != "" {
		from, to = folder(n.t, earlier, stream), folder(n.t, n.NATSDir, stream)
	}
	require.NoError(n.t, os.RemoveAll(to))
	require.NoError(n.t, os.CopyFS(to, os.DirFS(from)))
}

// folder is where a stream is in a store of NATS.
func folder(t *testing.T, store, stream string) (at string) {
	t.Helper()
	require.NoError(t, filepath.WalkDir(store, func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.IsDir() && d.Name() == stream {
			at = path
			return fs.SkipAll
		}
		return err
	}))
	require.NotEmpty(t, at, "%s is not in %s", stream, store)
	return at
}
