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
		Kafka: &eventv1.KafkaRange{Topic: "orders", TopicId: bytes.Repeat([]byte{9}, 16), Partition: 3, FirstOffset: 1 << 40, LastOffset: 1<<40 + 12, Rewinds: 2, RewoundTo: 17},
		Rows:  3, Keys: bytes.Repeat([]byte{1}, 48), Times: bytes.Repeat([]byte{2}, 24),
		Offsets: []byte{0, 0, 0, 0, 5, 0, 0, 0, 12, 0, 0, 0}, Versions: bytes.Repeat([]byte{3}, 24),
		Selection: []byte{0b101}, Selected: 2, ColumnsSize: 5, Columns: []byte("hello"),
		ArrivalMs: 1790000000000, InputSequence: 99, Traceparent: "00-1-2-01",
		Tally: &eventv1.Tally{Records: 10, Tombstones: 1, DeadLetters: 2, Duplicates: 3, Rows: 4}, Behind: true,
	}
}

func joinExample() *eventv1.EventBatch {
	b := example()
	b.Format, b.Source, b.Progress = FormatJoin, "orders", &eventv1.Progress{MaxEventMs: new(int64), IdleSinceMs: 1790000000001, Partitions: 12}
	b.JoinKeys, b.EventTimes = bytes.Repeat([]byte{4}, 48), bytes.Repeat([]byte{5}, 24)
	return b
}

// joinedExample is what the join puts out: no offsets of its own.
func joinedExample() *eventv1.EventBatch {
	b := example()
	b.Format, b.Kafka, b.Offsets, b.Keys, b.Times, b.Versions = FormatJoin, nil, nil, nil, nil, nil
	b.Tally.Matched, b.Tally.Unmatched, b.Tally.Late, b.Tally.Dropped = 5, 6, 7, 8
	for row := range int64(3) {
		b.Origins = AppendOrigin(b.Origins, Origin{LeftPartition: 3, LeftOffset: 1<<40 + row*5, RightPartition: NoRight, RightOffset: -1, EventMS: -row})
	}
	return b
}

// The hand-written codec and the generated one must read each other.
func TestCodecAgreesWithProtobuf(t *testing.T) {
	t.Run("without a join", func(t *testing.T) { agrees(t, example()) })
	t.Run("with a join", func(t *testing.T) { agrees(t, joinExample()) })
	t.Run("dedup by event time", func(t *testing.T) {
		b := example()
		b.Format, b.Progress = FormatJoin, &eventv1.Progress{Partitions: 3, TellsDedup: true, IdleSinceMs: 5}
		agrees(t, b)
		b.Progress.MaxDedupMs, b.Progress.UntimedSinceMs = proto.Int64(0), 7
		agrees(t, b)
	})
	t.Run("joined", func(t *testing.T) { agrees(t, joinedExample()) })
}

func agrees(t *testing.T, want *eventv1.EventBatch) {
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

func TestJoinFields(t *testing.T) {
	data, err := proto.Marshal(joinExample())
	require.NoError(t, err)
	var v View
	require.NoError(t, v.Parse(data))
	require.Equal(t, "orders", string(v.Source))
	require.Equal(t, Progress{HasMax: true, IdleSinceMS: 1790000000001, Partitions: 12}, v.Progress, "the event time 0 is one")
	require.Equal(t, [2]uint64{0x0404040404040404, 0x0404040404040404}, v.JoinKey(2))
	require.Equal(t, int64(0x0505050505050505), v.EventTime(2))

	data, err = proto.Marshal(joinedExample())
	require.NoError(t, err)
	require.NoError(t, v.Parse(data))
	want := Origin{LeftPartition: 3, LeftOffset: 1<<40 + 10, RightPartition: NoRight, RightOffset: -1, EventMS: -2}
	require.Equal(t, want, v.Origin(2))
	require.Equal(t, want.LeftOffset, v.Offset(2))
	require.Equal(t, uint64(8), TallyOf(v.Tally.Proto()).Dropped)
}

// The format is what the content demands, whatever was said before.
func TestFormatFollowsContent(t *testing.T) {
	data, err := proto.Marshal(joinExample())
	require.NoError(t, err)
	var v View
	require.NoError(t, v.Parse(data))
	v.Source, v.JoinKeys, v.EventTimes, v.Progress = nil, nil, nil, Progress{}
	plain, err := proto.Marshal(example())
	require.NoError(t, err)
	require.Equal(t, plain, v.Append(nil))
	v.Source = []byte("users")
	var again View
	require.NoError(t, again.Parse(v.Append(nil)))
	require.Equal(t, uint32(FormatJoin), again.Format)
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
		"format 0":                    func(b *eventv1.EventBatch) { b.Format = 0 },
		"newer format":                func(b *eventv1.EventBatch) { b.Format = FormatJoin + 1 },
		"short keys":                  func(b *eventv1.EventBatch) { b.Keys = b.Keys[:47] },
		"short times":                 func(b *eventv1.EventBatch) { b.Times = b.Times[:8] },
		"no offsets":                  func(b *eventv1.EventBatch) { b.Offsets = nil },
		"short versions":              func(b *eventv1.EventBatch) { b.Versions = b.Versions[:1] },
		"long selection":              func(b *eventv1.EventBatch) { b.Selection = []byte{1, 1} },
		"bits beyond rows":            func(b *eventv1.EventBatch) { b.Selection = []byte{0b1001} },
		"wrong selected":              func(b *eventv1.EventBatch) { b.Selected = 3 },
		"join in format 1":            func(b *eventv1.EventBatch) { b.Source = "orders" },
		"neither offsets nor origins": func(b *eventv1.EventBatch) { b.Format, b.Offsets, b.Source = FormatJoin, nil, "orders" },
		"short join keys":             func(b *eventv1.EventBatch) { b.Format, b.JoinKeys = FormatJoin, []byte{1} },
		"short event times":           func(b *eventv1.EventBatch) { b.Format, b.EventTimes = FormatJoin, []byte{1} },
		"short origins":               func(b *eventv1.EventBatch) { b.Format, b.Offsets, b.Origins = FormatJoin, nil, []byte{1} },
		"too many rows":               func(b *eventv1.EventBatch) { b.Rows = 1 << 30 },
		"huge columns":                func(b *eventv1.EventBatch) { b.ColumnsSize = 1<<31 + 5 },
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

func TestBuilderOfJoin(t *testing.T) {
	var b Builder
	for range 2 { // also when used anew
		b.Reset()
		b.Add(Row{Offset: 7, JoinKey: [2]uint64{1, 2}, EventMS: -3}, Fields{Join: true})
		b.Add(Row{Offset: 8, JoinKey: [2]uint64{3, 4}, EventMS: 5}, Fields{Join: true})
	}
	var v, back View
	b.View(&v, func(dst []byte) []byte { return dst })
	require.NoError(t, back.Parse(v.Append(nil)))
	require.Equal(t, uint32(FormatJoin), back.Format)
	require.Equal(t, [2]uint64{3, 4}, back.JoinKey(1))
	require.Equal(t, int64(-3), back.EventTime(0))
	require.Empty(t, back.Keys)
}

func FuzzParse(f *testing.F) {
	data, err := proto.Marshal(example())
	require.NoError(f, err)
	f.Add(data)
	for _, b := range []*eventv1.EventBatch{joinExample(), joinedExample()} {
		data, err := proto.Marshal(b)
		require.NoError(f, err)
		f.Add(data)
	}
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
			if len(v.JoinKeys) > 0 {
				v.JoinKey(row)
			}
			if len(v.EventTimes) > 0 {
				v.EventTime(row)
			}
			if len(v.Origins) > 0 {
				v.Origin(row)
			}
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
