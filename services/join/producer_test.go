package join

import (
	"fmt"
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/zeebo/xxh3"

	"sluice/libs/batch"
	"sluice/libs/fencedlog"
	"sluice/libs/jsonread"
	"sluice/libs/native"
	"sluice/libs/spec"
)

// producer is the ingest writer of one partition of a source.
type producer struct {
	w         *world
	source    string
	partition int32
	writer    *fencedlog.Writer
	offset    int64
	max       int64
	has       bool
	revision  uint64
	// partitions of the topic; 0: 1.
	partitions int
	arrival    int64 // 0: always the same
	lane       int
}

func (w *world) producer(source string, partition int32, lanes ...int) *producer {
	p := &producer{w: w, source: source, partition: partition, revision: 1}
	var err error
	p.writer, _, err = fencedlog.Open(w.t.Context(), w.js, w.log(fencedlog.Ingest), fmt.Sprintf("%s-%d", source, partition),
		fencedlog.Options{Lanes: append(lanes, 0)})
	require.NoError(w.t, err)
	return p
}

// idle appends a batch without rows that says that there has been nothing to read for so long.
func (p *producer) idle(d time.Duration) { p.append(d) }

// event is a row: the values of its source's columns as JSON, "" is missing.
type event struct {
	ms     int64
	key    string
	values []string
}

func keyOf(name string) [2]uint64 {
	if name == "" {
		return [2]uint64{}
	}
	h := xxh3.HashString128(name)
	return [2]uint64{h.Lo, h.Hi}
}

// send appends a batch of events.
func (p *producer) send(events ...event) { p.append(0, events...) }

func (p *producer) append(idle time.Duration, events ...event) {
	t := p.w.t
	t.Helper()
	schema := p.w.record.GetSchemas()[p.revision-1]
	var columns []*native.Column
	for _, c := range spec.Columns(schema, p.source) {
		column, err := newColumn(c)
		require.NoError(t, err)
		columns = append(columns, column)
	}
	var b batch.Builder
	for _, e := range events {
		b.Add(batch.Row{Offset: p.offset, JoinKey: keyOf(e.key), EventMS: e.ms}, batch.Fields{Join: true})
		p.offset++
		if !p.has || e.ms > p.max {
			p.max, p.has = e.ms, true
		}
		for i, c := range columns {
			require.NoError(t, c.AppendJSON(valueOf(t, e.values[i])))
		}
	}
	v := batch.View{
		SchemaRevision: p.revision, Topic: []byte(p.source), Partition: p.partition,
		ArrivalMS: max(p.arrival, 1_000_000), Source: []byte(p.source),
		Progress: batch.Progress{MaxEventMS: p.max, HasMax: p.has, Partitions: max(p.partitions, 1)},
	}
	if idle > 0 {
		v.Progress.IdleSinceMS = v.ArrivalMS - idle.Milliseconds()
	}
	if len(events) > 0 {
		b.View(&v, func(dst []byte) []byte {
			for _, c := range columns {
				dst = batch.AppendColumn(dst, c.AppendWire)
			}
			return dst
		})
	}
	_, err := p.writer.Append(t.Context(), p.lane, strconv.FormatInt(p.offset, 10), v.Append(nil))
	require.NoError(t, err)
}

func valueOf(t testing.TB, text string) jsonread.Value {
	if text == "" {
		return jsonread.Value{}
	}
	if text[0] == '"' {
		return jsonread.Value{Kind: jsonread.String, Raw: []byte(text[1 : len(text)-1])}
	}
	require.NotEqual(t, "null", text)
	return jsonread.Value{Kind: jsonread.Number, Raw: []byte(text)}
}

func order(ms int64, user, id string, amount int) event {
	return event{ms, user, []string{`"` + id + `"`, strconv.Itoa(amount)}}
}

func user(ms int64, id, name string, age int, plan string) event {
	return event{ms, id, []string{name, strconv.Itoa(age), plan}}
}
