package native_test

import (
	"bytes"
	"runtime/metrics"
	"testing"

	"github.com/ClickHouse/ch-go/proto"
	"github.com/stretchr/testify/require"

	"sluice/libs/native"
)

// fuzzSeeds are values of the fuzzTypes, in their order.
var fuzzSeeds = []string{
	"1", `"text"`, "null", `["a",""]`, "[[1],[]]", `{"k":[{"a":1,"b":"2026-01-31 00:00:00.125"}]}`,
	"[]", "[[],[]]", `"same"`, `["x","x"]`, "[1,2]",
	`["a",1]`, `{"a":1}`, `{"a":[1]}`, "[1,2,3]", `["abc",null]`,
}

// seeds hands the values of each type out, in three rows.
func seeds(f *testing.F, each func(which uint8, col *native.Column)) {
	for i, typ := range fuzzTypes {
		col := newColumn(f, typ, false)
		for range 3 {
			require.NoError(f, col.AppendJSON(read(f, fuzzSeeds[i])), typ)
		}
		each(uint8(i), col)
	}
}

// allocated is how many bytes this process has ever asked for.
func allocated() uint64 {
	sample := []metrics.Sample{{Name: "/gc/heap/allocs:bytes"}}
	metrics.Read(sample)
	return sample[0].Value.Uint64()
}

// FuzzReadBlock: whatever a server sends as a column, there is an error or a column that can be hashed and sent, and
// that reads back as the same; memory grows as data comes.
func FuzzReadBlock(f *testing.F) {
	seeds(f, func(which uint8, col *native.Column) {
		f.Add(which, uint32(col.Rows()), block(f, col))
	})
	f.Add(uint8(1), uint32(1), []byte{0xff, 0xff, 0xff, 0xff, 0x07})
	f.Add(uint8(3), uint32(1), []byte{0, 0, 0, 0, 0xff, 0, 0, 0})
	f.Fuzz(func(t *testing.T, which uint8, rows uint32, data []byte) {
		if rows %= 1 << 20; len(data) > 1<<20 {
			return
		}
		col := newColumn(t, fuzzTypes[int(which)%len(fuzzTypes)], false)
		readBlock := func(data []byte, c *native.Column) error {
			return c.ReadBlock(proto.NewReader(bytes.NewReader(data)), int(rows))
		}
		before := allocated()
		err := readBlock(data, col)
		// A step is read at a time; rows that are numbers of a dictionary take what its keys take.
		require.Less(t, allocated()-before, uint64(64*len(data)+(16<<20)+native.MaxDictionaryBytes*3))
		if err != nil {
			return
		}
		require.Equal(t, int(rows), col.Rows())
		native.HashRows(nil, col.Rows(), []string{"c"}, []*native.Column{col})
		again := newColumn(t, fuzzTypes[int(which)%len(fuzzTypes)], false)
		if rows > 0 {
			require.NoError(t, readBlock(block(t, col), again))
		}
		require.Equal(t, col.AppendWire(nil), again.AppendWire(nil))
	})
}

// One long key and a byte for each row: a clear error instead of a column of gigabytes.
func TestDictionaryIsBounded(t *testing.T) {
	const keyBytes, rows = 1 << 20, 1000
	var b proto.Buffer
	b.PutUInt64(1)      // version
	b.PutUInt64(1 << 9) // keys follow, numbers have a byte
	b.PutUInt64(1)
	b.PutString(string(make([]byte, keyBytes)))
	b.PutUInt64(rows)
	b.PutRaw(make([]byte, rows))
	before := allocated()
	err := newColumn(t, "LowCardinality(String)", false).ReadBlock(b.Reader(), rows)
	require.ErrorContains(t, err, "more than 268435456 bytes")
	require.Less(t, allocated()-before, uint64(32<<20))
}
