package join

import (
	"encoding/binary"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kgo"
	"google.golang.org/protobuf/proto"

	controlv1 "sluice/gen/sluice/control/v1"
	eventv1 "sluice/gen/sluice/event/v1"
	"sluice/libs/batch"
	"sluice/libs/fencedlog"
	"sluice/libs/native"
)

// joined is a row of the join log.
type joined struct {
	text   string
	origin batch.Origin
}

// output is outputOf lane 0.
func (w *world) output() (rows []joined, messages []*batch.View) { return w.outputOf(0) }

// outputOf reads a lane of the join log as it is now, and checks what holds of all of it.
func (w *world) outputOf(lane int) (rows []joined, messages []*batch.View) {
	w.t.Helper()
	log := w.log(fencedlog.Join)
	stream, err := w.js.Stream(w.t.Context(), log.Stream())
	require.NoError(w.t, err)
	info, err := stream.Info(w.t.Context())
	require.NoError(w.t, err)
	positions := map[string]bool{}
	for seq := uint64(1); seq <= info.State.LastSeq; seq++ {
		msg, err := stream.GetMsg(w.t.Context(), seq)
		if errors.Is(err, jetstream.ErrMsgNotFound) {
			continue // a fence that was replaced
		}
		require.NoError(w.t, err)
		if msg.Subject != log.Subject(lane, strconv.Itoa(lane)) {
			continue
		}
		v := &batch.View{}
		require.NoError(w.t, v.Parse(msg.Data))
		require.Empty(w.t, v.Source)
		require.Equal(w.t, v.Rows, v.Selected)
		position := msg.Header.Get("Sluice-Position")
		require.True(w.t, strings.HasPrefix(position, fmt.Sprint(v.InputSequence)), position)
		require.False(w.t, positions[position], "position %s twice", position)
		positions[position] = true
		rows = append(rows, w.decode(v)...)
		messages = append(messages, v)
	}
	return rows, messages
}

func (w *world) decode(v *batch.View) []joined {
	raw, err := v.RawColumns(nil)
	require.NoError(w.t, err)
	schema := w.record.GetSchemas()[v.SchemaRevision-1]
	rows := make([]joined, v.Rows)
	for _, c := range schema.GetColumns() {
		var wire []byte
		wire, raw, err = batch.NextColumn(raw)
		require.NoError(w.t, err)
		typ, err := native.ParseType(c.GetType())
		require.NoError(w.t, err)
		cells := native.NewCells(typ, optional(c))
		require.NoError(w.t, cells.Open(wire, v.Rows))
		for i := range rows {
			rows[i].text += show(c, cells.Cut(nil)) + " "
		}
	}
	require.Empty(w.t, raw)
	for i := range rows {
		rows[i].text = strings.TrimSpace(rows[i].text)
		rows[i].origin = v.Origin(i)
	}
	return rows
}

// show prints a cell of the types that the tests use.
func show(c *controlv1.SchemaColumn, cell []byte) string {
	if optional(c) {
		if cell[0] == 1 {
			return "DEFAULT"
		}
		cell = cell[1:]
	}
	switch c.GetType() {
	case "Nullable(String)":
		if cell[0] == 1 {
			return "NULL"
		}
		return string(cell[2:])
	case "Int64":
		return strconv.FormatInt(int64(binary.LittleEndian.Uint64(cell)), 10)
	case "UInt8":
		return strconv.Itoa(int(cell[0]))
	}
	return string(cell[1:])
}

func texts(rows []joined) []string {
	var out []string
	for _, r := range rows {
		out = append(out, r.text)
	}
	return out
}

func (w *world) letters() (out []*eventv1.DeadLetter) {
	w.t.Helper()
	log := w.log(fencedlog.DeadLetters)
	stream, err := w.js.Stream(w.t.Context(), log.Stream())
	require.NoError(w.t, err)
	info, err := stream.Info(w.t.Context())
	require.NoError(w.t, err)
	for seq := uint64(1); seq <= info.State.LastSeq; seq++ {
		msg, err := stream.GetMsg(w.t.Context(), seq)
		if err != nil || msg.Subject != log.Subject(0, "join-0") {
			continue
		}
		var b eventv1.DeadLetterBatch
		require.NoError(w.t, proto.Unmarshal(msg.Data, &b))
		out = append(out, b.GetLetters()...)
	}
	return out
}

func (w *world) produce(topic string, values ...string) {
	w.t.Helper()
	client, err := kgo.NewClient(kgo.SeedBrokers(w.broker.Addr()), kgo.RecordPartitioner(kgo.ManualPartitioner()))
	require.NoError(w.t, err)
	defer client.Close()
	for _, v := range values {
		require.NoError(w.t, client.ProduceSync(w.t.Context(), &kgo.Record{Topic: topic, Value: []byte(v)}).FirstErr())
	}
}
