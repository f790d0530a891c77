package batch

import (
	"runtime/metrics"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/klauspost/compress/s2"
	"github.com/klauspost/compress/zstd"
	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/proto"

	eventv1 "sluice/gen/sluice/event/v1"
)

// FuzzAgainstProtobuf: what is read as a batch is what protobuf's own decoder reads in the same bytes, and says
// the same when it is written again, whatever was in it; memory is what the batch says that it needs, and no more.
func FuzzAgainstProtobuf(f *testing.F) {
	seed := func(compression eventv1.Compression, size int, columns []byte) {
		b := example()
		b.Compression, b.ColumnsSize, b.Columns = compression, uint32(size), columns
		data, err := proto.Marshal(b)
		require.NoError(f, err)
		f.Add(data)
	}
	raw := AppendColumn(AppendColumn(nil, func(b []byte) []byte { return append(b, "one"...) }), func(b []byte) []byte { return b })
	encoder, err := zstd.NewWriter(nil)
	require.NoError(f, err)
	defer encoder.Close()
	seed(eventv1.Compression_COMPRESSION_UNSPECIFIED, len(raw), raw)
	seed(eventv1.Compression_COMPRESSION_S2, len(raw), s2.Encode(nil, raw))
	seed(eventv1.Compression_COMPRESSION_ZSTD, len(raw), encoder.EncodeAll(raw, nil))
	zeros := make([]byte, 1<<20)
	seed(eventv1.Compression_COMPRESSION_S2, len(zeros), s2.Encode(nil, zeros))
	seed(eventv1.Compression_COMPRESSION_ZSTD, len(zeros), encoder.EncodeAll(zeros, nil))
	seed(eventv1.Compression_COMPRESSION_ZSTD, 1, encoder.EncodeAll(zeros, nil)) // more than it says
	f.Fuzz(func(t *testing.T, data []byte) {
		before := allocated()
		var v View
		if v.Parse(data) != nil {
			require.Less(t, allocated()-before, uint64(16*len(data)+1<<20))
			return
		}
		if v.ColumnsSize <= 64<<20 { // larger ones are slow to try
			raw, err := v.RawColumns(nil)
			require.Less(t, allocated()-before, uint64(16*len(data)+4*v.ColumnsSize+16<<20))
			for err == nil && len(raw) > 0 {
				_, raw, err = NextColumn(raw)
			}
		}
		var theirs, ours eventv1.EventBatch
		if proto.Unmarshal(data, &theirs) != nil {
			return // names that are not UTF-8
		}
		require.NoError(t, proto.Unmarshal(v.Append(nil), &ours))
		require.EqualValues(t, theirs.GetRows(), v.Rows)
		require.EqualValues(t, theirs.GetSelected(), v.Selected)
		for _, field := range []func(*eventv1.EventBatch) []byte{
			(*eventv1.EventBatch).GetKeys, (*eventv1.EventBatch).GetTimes, (*eventv1.EventBatch).GetOffsets,
			(*eventv1.EventBatch).GetVersions, (*eventv1.EventBatch).GetSelection, (*eventv1.EventBatch).GetColumns,
		} {
			require.Empty(t, cmp.Diff(field(&theirs), field(&ours)))
		}
	})
}

// allocated is how many bytes this process has ever asked for.
func allocated() uint64 {
	sample := []metrics.Sample{{Name: "/gc/heap/allocs:bytes"}}
	metrics.Read(sample)
	return sample[0].Value.Uint64()
}
