//go:build unix

package e2e

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/proto"

	"sluice/e2e/internal/stack"
	eventv1 "sluice/gen/sluice/event/v1"
	"sluice/libs/checkpoint"
	"sluice/libs/playground/kafka/kafkatest"
)

// An earlier copy of a stream, and of the whole store of NATS, is put back while nothing runs, when the table has long forgotten the blocks that
// it had since. At the end the rows are the first occurrences, each once, and the status says what was lost.
func TestAnEarlierCopyIsPutBack(t *testing.T) {
	p := newPutBack(t, 2)
	p.send(1000)
	for _, what := range []struct{ name, stream, says string }{
		{"the state", "KV_sluice_events_state", "went back"},
		{"the registry", "KV_sluice_pipelines", ""},
		{"the dead letters", "sluice_events_dlq", "made anew from Kafka"},
		{"the ingest log", "sluice_events_ingest", "lost its tail"},
		{"the dedup log", "sluice_events_dedup", "lost its tail"},
		{"everything", "", "the store went back"},
	} {
		earlier := p.copy()
		switch what.stream {
		case "KV_sluice_pipelines":
			p.apply("25h")
		case "sluice_events_dlq":
			for range 3 {
				p.refused()
			}
		}
		p.blocks(4, 250)
		p.putBack(earlier, what.stream)
		p.send(500)
		if what.stream == "sluice_events_dlq" {
			stack.Await(t, 2*time.Minute, "all letters are there again", func() (bool, any) {
				there := len(p.DeadLetters("events"))
				return there >= p.letters, there
			})
		}
		if what.stream == "KV_sluice_pipelines" {
			stack.Await(t, 2*time.Minute, "the last change of the pipeline is there again", func() (bool, any) {
				now := p.Do("get", "events", "-o", "yaml")
				return strings.Contains(now, "window: 90000s"), now
			})
		}
		p.check(what.name, what.says)
	}
}

// The same, when the table remembers all blocks: new rows may come under sequences that others had before, and are in the table all the same.
func TestAnEarlierCopyIsPutBackUnderATableThatRemembers(t *testing.T) {
	p := newPutBack(t, 10000)
	empty := p.copy() // the pipeline is made, and nothing has been read
	p.blocks(5, 20)
	for _, what := range []struct{ name, stream, says string }{
		{"everything", "", "the store went back"},
		{"everything once more", "", "the store went back"},
		{"the dedup log when all is settled", "sluice_events_dedup", "stage sink has all of that"},
		{"the state", "KV_sluice_events_state", "went back"},
		{"all there ever was", "", "has nothing of it"},
	} {
		earlier := p.copy()
		if what.name == "all there ever was" {
			earlier = empty
		}
		p.blocks(12, 10)
		if what.stream == "sluice_events_dedup" {
			stack.Await(t, time.Minute, "no checkpoint from before is kept", func() (bool, any) {
				kept := p.kept("events")
				return kept == 0, kept
			})
		}
		p.putBack(earlier, what.stream)
		p.blocks(12, 10)
		p.check(what.name, what.says)
	}
}

// The state goes back to before what the logs still keep: the lanes stand still, and say so. Without the logs the pipeline reads Kafka again.
func TestTheStateIsOlderThanTheLogs(t *testing.T) {
	p := newPutBack(t, 2, "SLUICE_KEEP_LOGS=0s")
	p.send(1000)
	earlier := p.copy()
	p.blocks(4, 250)
	end := p.bounds("sluice_events_dedup").LastSeq
	stack.Await(t, 2*time.Minute, "the logs are purged beyond the copy", func() (bool, any) {
		p.send(10)
		first := p.bounds("sluice_events_dedup").FirstSeq
		return first > end, first
	})
	p.putBack(earlier, "KV_sluice_events_state")
	stack.Await(t, 2*time.Minute, "the status says that the lanes stand still", func() (bool, any) {
		errors := strings.Join(p.Status("events").Errors, "\n")
		return strings.Contains(errors, "purged beyond"), errors
	})
	p.down()
	for _, stream := range []string{"sluice_events_ingest", "sluice_events_dedup"} {
		require.NoError(t, os.RemoveAll(folder(t, p.NATSDir, stream)))
	}
	p.up()
	p.send(500)
	p.check("the logs", "went back")
}

// putBack is a pipeline with duplicates, and what it has to come to.
type putBack struct {
	*natsStore
	table    *stack.Table
	kafka    string
	producer *stack.Producer
	n        int               // events that were sent
	first    map[string]string // by key
	letters  int               // that must be there
}

const putBackPartitions = 2

// newPutBack makes one whose table remembers so many blocks.
func newPutBack(t *testing.T, remembered int, env ...string) *putBack {
	t.Helper()
	kafka := kafkatest.StartReal(t, kafkatest.Options{})
	s := stack.Run(t, bin(t), env...)
	p := &putBack{natsStore: &natsStore{t: t, Stack: s, services: stack.Services}, table: stack.OpenSQL(t, s.ClickHouseAddr), kafka: kafka.Addr(), first: map[string]string{}}
	p.table.Exec(fmt.Sprintf(`CREATE TABLE events (id String, n UInt64, text String, CONSTRAINT small CHECK n < 1000000000) ENGINE = MergeTree ORDER BY id
		SETTINGS non_replicated_deduplication_window = %d`, remembered))
	p.producer = stack.NewProducer(t, kafka.Addr(), "events", putBackPartitions)
	p.apply("24h")
	return p
}

func (p *putBack) apply(window string) {
	p.t.Helper()
	p.Apply(fmt.Sprintf(`
id: events
source: {kafka: {brokers: ["%s"], topic: events}}
dedup: {key: [id], window: %s}
sink: {clickhouse: {addr: ["%s"], table: events}}
batch: {max_delay: 20ms}
`, p.kafka, window, p.ClickHouseAddr))
}

// send sends events, about half of which are of keys from before, and waits until they are where they belong.
func (p *putBack) send(events int) {
	p.t.Helper()
	for range events {
		p.n++
		key := fmt.Sprintf("event-%d", p.n*7919%(p.n/2+10))
		if _, ok := p.first[key]; !ok {
			p.first[key] = fmt.Sprintf("%s|%d|payload of %d", key, p.n, p.n)
		}
		p.producer.Send(stack.PartitionOf(key, putBackPartitions), []byte(key), fmt.Appendf(nil, `{"id":%q,"n":%d,"text":"payload of %d"}`, key, p.n, p.n))
	}
	p.producer.Flush()
	p.Wait("events", 2*time.Minute)
}

// blocks makes so many blocks of the table, and more, of so many events each.
func (p *putBack) blocks(n, events int) {
	p.t.Helper()
	for range n {
		p.send(events)
	}
}

// refused sends two events: one is refused by the ingestor, one by the table.
func (p *putBack) refused() {
	p.n++
	key := fmt.Sprintf("refused-%d", p.n)
	p.producer.Send(0, []byte(key), fmt.Appendf(nil, `{"id":%q,"n":"none","text":""}`, key))
	p.producer.Send(1, []byte(key), fmt.Appendf(nil, `{"id":%q,"n":%d,"text":""}`, key, 2_000_000_000+p.n))
	p.letters += 2
}

func (p *putBack) check(after, says string) {
	p.t.Helper()
	var want []string
	for _, row := range p.first {
		want = append(want, row)
	}
	requireRows(p.t, want, p.table.Rows("SELECT id, n, text FROM events"))
	require.Len(p.t, p.DeadLetters("events"), p.letters, after)
	stack.Await(p.t, 2*time.Minute, "the status says what was found after the loss of "+after, func() (bool, any) {
		errors := strings.Join(p.Status("events").Errors, "\n")
		return strings.Contains(errors, says), errors
	})
}

// natsStore is what NATS keeps on disk, under a stack whose processes stand still while it is touched.
type natsStore struct {
	*stack.Stack
	t        *testing.T
	services []string
	killed   []string // of them: they are not stopped but killed
}

// jetStream is a client of the server as it runs now.
func (n *natsStore) jetStream() jetstream.JetStream {
	n.t.Helper()
	nc, err := nats.Connect(n.NATSAddr)
	require.NoError(n.t, err)
	n.t.Cleanup(nc.Close)
	js, err := jetstream.New(nc)
	require.NoError(n.t, err)
	return js
}

// kept is how many earlier checkpoints of dedup's lanes are kept.
func (n *natsStore) kept(pipeline string) (kept int) {
	n.t.Helper()
	kv, err := n.jetStream().KeyValue(n.t.Context(), checkpoint.Bucket(pipeline))
	require.NoError(n.t, err)
	keys, err := kv.ListKeysFiltered(n.t.Context(), "dedup.*.manifest")
	require.NoError(n.t, err)
	for key := range keys.Keys() {
		e, err := kv.Get(n.t.Context(), key)
		require.NoError(n.t, err)
		var m eventv1.Manifest
		require.NoError(n.t, proto.Unmarshal(e.Value(), &m))
		kept += len(m.GetEarlier())
	}
	return kept
}

// bounds is what a stream holds.
func (n *natsStore) bounds(stream string) jetstream.StreamState {
	n.t.Helper()
	at, err := n.jetStream().Stream(n.t.Context(), stream)
	require.NoError(n.t, err)
	return at.CachedInfo().State
}

func (n *natsStore) down() {
	n.t.Helper()
	for _, name := range n.killed {
		n.Service(name).Kill()
	}
	for _, name := range n.services {
		if !slices.Contains(n.killed, name) {
			require.Zero(n.t, n.Service(name).Stop())
		}
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

// putBack puts streams of an earlier copy in the place of what they are now, named with commas between; "": all of the store.
func (n *natsStore) putBack(earlier, streams string) {
	n.t.Helper()
	n.down()
	defer n.up()
	for stream := range strings.SplitSeq(streams, ",") {
		from, to := earlier, n.NATSDir
		if stream != "" {
			from, to = folder(n.t, earlier, stream), folder(n.t, n.NATSDir, stream)
		}
		require.NoError(n.t, os.RemoveAll(to))
		require.NoError(n.t, os.CopyFS(to, os.DirFS(from)))
	}
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
