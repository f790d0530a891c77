package sink

import (
	"encoding/json"
	"fmt"
	"strconv"
	"time"

	"github.com/IBM/sarama"
	"github.com/stretchr/testify/require"

	"sluice/libs/batch"
	"sluice/libs/jsonread"
	"sluice/libs/native"
)

// event is a row; N is a column with DEFAULT 7 and may be left out.
type event struct {
	ID   uint64 `json:"id"`
	Text string `json:"text"`
	N    *int   `json:"n,omitempty"`
}

// send produces the events to Kafka and appends them to a lane as the ingestor does, as one batch. Rows in dropped are
// deselected, as the dedup stage does.
func (w *world) send(lane int, events []event, dropped ...int) {
	w.t.Helper()
	w.put(lane, events, w.produce(events), dropped...)
}

// produce brings the events to Kafka and returns the offset of the first.
func (w *world) produce(events []event) int64 {
	w.t.Helper()
	if w.logOnly {
		w.offset += int64(len(events))
		return w.offset - int64(len(events))
	}
	messages := make([]*sarama.ProducerMessage, len(events))
	for i, e := range events {
		doc, err := json.Marshal(e)
		require.NoError(w.t, err)
		messages[i] = &sarama.ProducerMessage{Topic: "events", Partition: 0, Key: sarama.StringEncoder(strconv.FormatUint(e.ID, 10)), Value: sarama.ByteEncoder(doc)}
	}
	require.NoError(w.t, w.producer.SendMessages(messages))
	return messages[0].Offset
}

// put appends the events, whose offsets begin with first, to a lane as one batch.
func (w *world) put(lane int, events []event, first int64, dropped ...int) {
	w.t.Helper()
	v := w.view(events, first)
	if len(dropped) > 0 {
		v.Selection = make([]byte, (v.Rows+7)/8)
		for row := range v.Rows {
			v.Selection[row/8] |= 1 << (row % 8)
		}
		for _, row := range dropped {
			v.Selection[row/8] &^= 1 << (row % 8)
		}
		v.Selected = v.Rows - len(dropped)
	}
	_, err := w.writer.Append(w.t.Context(), lane, strconv.FormatInt(v.LastOffset+1, 10), v.Append(nil))
	require.NoError(w.t, err)
}

// view is the events as a batch.
func (w *world) view(events []event, first int64) *batch.View {
	w.t.Helper()
	var b batch.Builder
	schema := w.record.GetSchemas()[0].GetColumns()
	paths := make([]string, len(schema))
	columns := make([]*native.Column, len(schema))
	for i, c := range schema {
		paths[i] = c.GetFrom()
		typ, err := native.ParseType(c.GetType())
		require.NoError(w.t, err)
		columns[i] = native.NewColumn(typ, c.GetDefaultExpression() != "")
	}
	plan, err := jsonread.NewPlan(paths)
	require.NoError(w.t, err)
	reader := jsonread.NewReader(plan, jsonread.Limits{})
	values := make([]jsonread.Value, len(paths))
	for i, e := range events {
		doc, err := json.Marshal(e)
		require.NoError(w.t, err)
		require.NoError(w.t, reader.Read(doc, values))
		for c := range columns {
			require.NoError(w.t, columns[c].AppendJSON(values[c]))
		}
		b.Add(batch.Row{Offset: first + int64(i)}, batch.Fields{})
	}
	var v batch.View
	v.SchemaRevision, v.Topic, v.ArrivalMS = 1, []byte("events"), time.Now().UnixMilli()
	b.View(&v, func(dst []byte) []byte {
		for _, c := range columns {
			dst = batch.AppendColumn(dst, c.AppendWire)
		}
		return dst
	})
	return &v
}

// rowsOf makes events with ids from first on; each third has n.
func rowsOf(first, n int) []event {
	out := make([]event, n)
	for i := range out {
		out[i] = event{ID: uint64(first + i), Text: fmt.Sprintf("row %d %040d", first+i, i)}
		if i%3 == 0 {
			n := i
			out[i].N = &n
		}
	}
	return out
}
