package batch

import (
	"bytes"
	"encoding/binary"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"

	eventv1 "sluice/gen/sluice/event/v1"
)

func example() *eventv1.EventBatch {
	return &eventv1.EventBatch{
		Format: Format, SchemaRevision: 7,
		Kafka: &eventv1.KafkaRange{Topic: "orders", TopicId: bytes.Repeat([]byte{9}, 16), Partition: 3, FirstOffset: 1 << 40, LastOffset: 1<<40 + 12},
		Rows:  3, Keys: bytes.Repeat([]byte{1}, 48), Times: bytes.Repeat([]byte{2}, 24),
		Offsets: []byte{0, 0, 0, 0, 5, 0, 0, 0, 12, 0, 0, 0}, Versions: bytes.Repeat([]byte{3}, 24),
		Selection: []byte{0b101}, Selected: 2, ColumnsSize: 5, Columns: []byte("hello"),
		ArrivalMs: 1790000000000, InputSequence: 99, Traceparent: "00-1-2-01",
		Tally: &eventv1.Tally{Records: 10, Tombstones: 1, DeadLetters: 2, Duplicates: 3, Rows: 4},
	}
}

// The hand-written codec and the generated one must read each other.
func TestCodecAgreesWithProtobuf(t *testing.T) {
	want := example()
	data, err := proto.Marshal(want)
	require.NoError(t, err)
	var v View
	require.NoError(t, v.Parse(data))
	require.Equal(t, int64(1<<40+5), v.Offset(1))
	require.Equal(t, []bool{true, false, true}, []bool{v.Selects(0), v.Selects(1), v.Selects(2)})
	var got eventv1.EventBatch
	require.NoError(t, proto.Unmarshal(v.Append(nil), &got))
	if diff := cmp.Diff(want, &got, protocmp.Transform()); diff != "" {
		t.Fatal(diff)
	}
}

// A batch of a newer minor writer passes through an older middle stage unharmed.
func TestUnknownFieldsPassThrough(t *testing.T) {
	data, err := proto.Marshal(example())
	require.NoError(t, err)
	extra := append(data, 0xfa, 0x3f, 3, 'n', 'e', 'w') // field 1023, bytes
	var v View
	require.NoError(t, v.Parse(extra))
	require.True(t, bytes.HasSuffix(v.Append(nil), []byte{0xfa, 0x3f, 3, 'n', 'e', 'w'}))
}

func TestParseRefusesInconsistentBatches(t *testing.T) {
	for name, harm := range map[string]func(*eventv1.EventBatch){
		"format 0":         func(b *eventv1.EventBatch) { b.Format = 0 },
		"newer format":     func(b *eventv1.EventBatch) { b.Format = Format + 1 },
		"short keys":       func(b *eventv1.EventBatch) { b.Keys = b.Keys[:47] },
		"short times":      func(b *eventv1.EventBatch) { b.Times = b.Times[:8] },
		"no offsets":       func(b *eventv1.EventBatch) { b.Offsets = nil },
		"short versions":   func(b *eventv1.EventBatch) { b.Versions = b.Versions[:1] },
		"long selection":   func(b *eventv1.EventBatch) { b.Selection = []byte{1, 1} },
		"bits beyond rows": func(b *eventv1.EventBatch) { b.Selection = []byte{0b1001} },
		"wrong selected":   func(b *eventv1.EventBatch) { b.Selected = 3 },
		"too many rows":    func(b *eventv1.EventBatch) { b.Rows = 1 << 30 },
		"huge columns":     func(b *eventv1.EventBatch) { b.ColumnsSize = 1<<31 + 5 },
	} {
		t.Run(name, func(t *testing.T) {
			b := example()
			harm(b)
			data, err := proto.Marshal(b)
			require.NoError(t, err)
			require.Error(t, new(View).Parse(data))
		})
	}
}

func TestColumnsSurviveCompression(t *testing.T) {
	for _, raw := range [][]byte{nil, []byte("x"), bytes.Repeat([]byte("sluice "), 100_000)} {
		var v View
		v.SetColumns(raw, nil)
		got, err := v.RawColumns(nil)
		require.NoError(t, err)
		require.Len(t, got, len(raw))
		require.True(t, bytes.Equal(raw, got))
		v.ColumnsSize++
		_, err = v.RawColumns(nil)
		require.Error(t, err)
	}
}

func TestColumnFraming(t *testing.T) {
	raw := AppendColumn(nil, func(b []byte) []byte { return append(b, "one"...) })
	raw = AppendColumn(raw, func(b []byte) []byte { return b })
	first, rest, err := NextColumn(raw)
	require.NoError(t, err)
	require.Equal(t, "one", string(first))
	second, rest, err := NextColumn(rest)
	require.NoError(t, err)
	require.Empty(t, second)
	_, _, err = NextColumn(rest)
	require.Error(t, err)
	_, _, err = NextColumn([]byte{255, 255, 255, 255, 1})
	require.Error(t, err)
}

func TestBuilder(t *testing.T) {
	var b Builder
	fields := Fields{Keys: true, Versions: true}
	require.True(t, b.Fits(100))
	b.Add(Row{Offset: 100, Key: [2]uint64{1, 2}, Version: 5}, fields)
	require.False(t, b.Fits(100), "offsets rise")
	require.False(t, b.Fits(100+1<<32), "offsets are kept in 32 bits")
	b.Add(Row{Offset: 100 + 1<<32 - 1, Key: [2]uint64{3, 4}, Version: 6}, fields)
	b.SetTimes(1234)
	var v View
	b.View(&v, func(dst []byte) []byte { return append(dst, "columns"...) })
	var back View
	require.NoError(t, back.Parse(v.Append(nil)))
	require.Equal(t, 2, back.Rows)
	require.Equal(t, int64(100+1<<32-1), back.Offset(1))
	require.Equal(t, uint64(1234), binary.LittleEndian.Uint64(back.Times[8:]))
	require.Equal(t, uint64(4), binary.LittleEndian.Uint64(back.Keys[24:]))
}

func FuzzParse(f *testing.F) {
	data, err := proto.Marshal(example())
	require.NoError(f, err)
	f.Add(data)
	f.Add([]byte{})
	f.Add([]byte{0x2a, 0xff, 0xff, 0xff, 0xff, 0x0f})
	f.Fuzz(func(t *testing.T, data []byte) {
		var v View
		if v.Parse(data) != nil {
			return
		}
		for row := range v.Rows {
			v.Selects(row)
			v.Offset(row)
		}
		if raw, err := v.RawColumns(nil); err == nil {
			require.Len(t, raw, v.ColumnsSize)
			for len(raw) > 0 {
				if _, raw, err = NextColumn(raw); err != nil {
					break
				}
			}
		}
		var again View
		require.NoError(t, again.Parse(v.Append(nil)))
	})
}
