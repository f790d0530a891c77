//go:build unix

package e2e

import (
	"bytes"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kgo"

	"sluice/e2e/internal/stack"
	"sluice/libs/playground/kafka/kafkatest"
)

// Events that cannot be delivered go to the dead letters, with all that is needed to mend them; their neighbours in the
// same batches are all in the table.
func TestBadInput(t *testing.T) {
	kafka := kafkatest.StartReal(t, kafkatest.Options{})
	s := stack.Run(t, bin(t))
	table := stack.OpenSQL(t, s.ClickHouseAddr)
	// The constraint is the engine's own: only the insert finds out.
	table.Exec(`CREATE TABLE mixed (id String, n UInt8, text String DEFAULT 'none', CONSTRAINT small CHECK n < 200)
		ENGINE = MergeTree ORDER BY id SETTINGS non_replicated_deduplication_window = 1000`)
	producer := stack.NewProducer(t, kafka.Addr(), "mixed", 2)
	s.Apply(fmt.Sprintf(`
id: mixed
source: {kafka: {brokers: ["%s"], topic: mixed}}
dedup: {key: [id], window: 1h}
sink: {clickhouse: {addr: ["%s"], table: mixed}}
`, kafka.Addr(), s.ClickHouseAddr))

	big := strings.Repeat("0123456789abcdef", 3<<16) // 3 MiB
	bad := []struct {
		name, value  string
		stage, field string
		reason       string // contained in the dead letter's
	}{
		{name: "not JSON", value: `this is not JSON`, stage: "ingest", reason: "invalid JSON"},
		{name: "cut off", value: `{"id":"cut","n":1`, stage: "ingest", reason: "invalid JSON"},
		{name: "not an object", value: `[1,2]`, stage: "ingest", reason: "object"},
		{name: "empty", value: ``, stage: "ingest", reason: "invalid JSON"},
		{name: "no key", value: `{"n":1,"text":"keyless"}`, stage: "ingest", field: "id", reason: "missing key"},
		{name: "null key", value: `{"id":null,"n":1}`, stage: "ingest", field: "id", reason: "null"},
		{name: "no fit", value: `{"id":"no-fit","n":300}`, stage: "ingest", field: "n", reason: "300"},
		{name: "wrong type", value: `{"id":"wrong-type","n":"many"}`, stage: "ingest", field: "n", reason: "many"},
		{name: "fraction", value: `{"id":"fraction","n":1.5}`, stage: "ingest", field: "n", reason: "1.5"},
		{name: "missing column", value: `{"id":"missing-column"}`, stage: "ingest", field: "n", reason: "missing"},
		{name: "duplicate keys", value: `{"id":"dup","n":1,"n":2}`, stage: "ingest", field: "n", reason: "duplicate"},
		{name: "invalid UTF-8", value: "{\"id\":\"utf\xff8\",\"n\":1}", stage: "ingest", reason: "UTF-8"},
		{name: "deep", value: `{"id":"deep","n":1,"x":` + strings.Repeat("[", 5000) + strings.Repeat("]", 5000) + `}`, stage: "ingest", reason: "deep"},
		{name: "big and wrong", value: `{"id":"big-wrong","n":-1,"text":"` + big + `"}`, stage: "ingest", field: "n", reason: "-1"},
		{name: "constraint", value: `{"id":"constraint-1","n":200}`, stage: "sink", reason: "small"},
		{name: "constraint too", value: `{"id":"constraint-2","n":255,"text":"last"}`, stage: "sink", reason: "small"},
	}
	var want []string
	next := 0
	good := func(n int) {
		for range n {
			next++
			producer.Send(0, nil, fmt.Appendf(nil, `{"id":"good-%d","n":%d}`, next, next%200))
			want = append(want, fmt.Sprintf("good-%d|%d|none", next, next%200))
		}
	}
	offsets := map[string]int64{}
	for _, b := range bad {
		good(50)
		offsets[b.name] = int64(next + len(offsets))
		producer.SendRecord(&kgo.Record{Partition: 0, Key: []byte("key of " + b.name), Value: []byte(b.value)})
	}
	good(50)
	// The other partition: tombstones, large events and odd text that is all right.
	producer.Send(1, []byte("gone"), nil)
	producer.Send(1, []byte("gone too"), nil)
	producer.Send(1, nil, []byte(`{"id":"large","n":7,"text":"`+big+`"}`))
	want = append(want, "large|7|"+big)
	producer.Send(1, nil, []byte(" {\"text\":\"a\\u0000b\\n\\n\\ud83d\\ude00 \U0001F600\" , \"extra\":{\"n\":[1e999]}, \"n\":2e1,\"id\":\"odd\"}\n"))
	want = append(want, "odd|20|a\x00b\n\n\U0001F600 \U0001F600")
	producer.Flush()
	s.Wait("mixed", 2*time.Minute)

	requireRows(t, want, table.Rows("SELECT id, n, text FROM mixed"))
	letters := map[int64]stack.DeadLetter{}
	for _, l := range s.DeadLetters("mixed") {
		require.Equal(t, "mixed", l.Topic)
		require.Zero(t, l.Partition)
		require.NotContains(t, letters, l.Offset, "dead-lettered twice: %+v", l)
		letters[l.Offset] = l
	}
	for _, b := range bad {
		l, ok := letters[offsets[b.name]]
		if !ok {
			t.Errorf("%s: no dead letter of offset %d", b.name, offsets[b.name])
			continue
		}
		delete(letters, l.Offset)
		if l.Stage != b.stage || b.field != "" && l.Field != b.field || !strings.Contains(l.Reason, b.reason) {
			t.Errorf("%s: stage %q, field %q, reason %q", b.name, l.Stage, l.Field, l.Reason)
		}
		if string(l.Key) != "key of "+b.name {
			t.Errorf("%s: key %q", b.name, l.Key)
		}
		if l.ValueTruncated {
			if len(b.value) < 512<<10 || !bytes.HasPrefix([]byte(b.value), l.Value) || len(l.Value) == 0 {
				t.Errorf("%s: the value was cut to %d bytes", b.name, len(l.Value))
			}
		} else if string(l.Value) != b.value {
			t.Errorf("%s: value %.100q, want %.100q", b.name, l.Value, b.value)
		}
	}
	require.Empty(t, letters, "dead letters of good events")

	status := s.Status("mixed")
	require.EqualValues(t, len(bad), status.DeadLetters)
	require.EqualValues(t, 2, status.Tombstones)
	require.EqualValues(t, len(want), status.RowsOut)
	require.Equal(t, status.RowsOut+status.Duplicates+status.DeadLetters+status.Tombstones, status.RecordsIn)
	require.Empty(t, status.Errors)
}
