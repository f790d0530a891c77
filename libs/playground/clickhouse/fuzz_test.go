package clickhouse

import (
	"bufio"
	"bytes"
	"strings"
	"testing"

	"github.com/ClickHouse/ch-go/proto"
	"github.com/stretchr/testify/require"
)

// FuzzBlock: whatever a client sends as a block is copied or refused, in bounded memory.
func FuzzBlock(f *testing.F) {
	seed := func(revision int, columns ...proto.InputColumn) {
		rows := 0
		if len(columns) > 0 {
			rows = columns[0].Data.Rows()
		}
		var b proto.Buffer
		require.NoError(f, (proto.Block{Rows: rows, Columns: len(columns), Info: proto.BlockInfo{BucketNum: -1}}).EncodeBlock(&b, revision, columns))
		f.Add(b.Buf, true, true)
	}
	ids := proto.ColUInt64{1, 2}
	var text proto.ColStr
	text.Append("a")
	text.Append(strings.Repeat("b", 300))
	list := proto.NewArray(new(proto.ColStr))
	list.Append([]string{"x", "y"})
	list.Append(nil)
	low := new(proto.ColStr).LowCardinality()
	low.Append("same")
	low.Append("same")
	maybe := proto.NewColNullable(new(proto.ColInt32))
	maybe.Append(proto.NewNullable[int32](1))
	maybe.Append(proto.Null[int32]())
	require.NoError(f, low.Prepare())
	seed(proto.Version)
	seed(proto.Version, proto.InputColumn{Name: "id", Data: ids}, proto.InputColumn{Name: "text", Data: text})
	seed(proto.Version, proto.InputColumn{Name: "list", Data: list}, proto.InputColumn{Name: "low", Data: low}, proto.InputColumn{Name: "maybe", Data: maybe})
	f.Fuzz(func(t *testing.T, data []byte, info, custom bool) {
		c := &copier{src: bufio.NewReader(bytes.NewReader(data)), layouts: map[string]layout{}}
		in := framing{info: info, custom: custom}
		head, err := c.block(in, framing{custom: custom})
		require.LessOrEqual(t, cap(c.dst), 4*len(data)+4*readStep, "memory as data comes, not as a length promises")
		if err != nil {
			return
		}
		// Lengths may have been written in more bytes than they need; copied again nothing changes.
		again := &copier{src: bufio.NewReader(bytes.NewReader(c.dst)), layouts: map[string]layout{}}
		second, err := again.block(framing{custom: custom}, framing{custom: custom})
		require.NoError(t, err)
		require.Equal(t, c.dst, again.dst)
		require.Equal(t, head, second)
	})
}
