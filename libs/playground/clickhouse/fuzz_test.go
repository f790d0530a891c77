package clickhouse

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"runtime/metrics"
	"strings"
	"testing"

	"github.com/ClickHouse/ch-go/compress"
	"github.com/ClickHouse/ch-go/proto"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/otel/trace"
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

// clients are the revisions whose packets differ.
var clients = []int{54058, 54060, 54372, 54401, 54420, 54429, 54441, 54442, 54453, 54454, 54458, 54459, revision}

// oldValue reads the settings of old clients as this server does, for those whose name begins with m as numbers.
func oldValue(p *packet, name string) (string, error) {
	switch name[0] {
	case 'm':
		_, err := p.uvarint()
		return "1", err
	case 's':
		return p.string()
	}
	return "", errors.New("not known")
}

// FuzzPackets: whatever a client sends as a greeting, a query and its block is read or refused, in memory that grows as
// data comes; what is read is what ch-go, which most clients are made of, would have read.
func FuzzPackets(f *testing.F) {
	seed := func(version int, q proto.Query) {
		var b proto.Buffer
		proto.ClientHello{Name: "client", Major: 26, Minor: 5, ProtocolVersion: version, Database: "d", User: "u", Password: "p"}.Encode(&b)
		q.EncodeAware(&b, version)
		var block proto.Buffer
		require.NoError(f, (proto.Block{}).EncodeBlock(&block, version, nil))
		if q.Compression == proto.CompressionEnabled {
			w := compress.NewWriter(compress.LevelZero, compress.LZ4)
			require.NoError(f, w.Compress(block.Buf))
			block.Buf = w.Data
		}
		b.PutRaw(append([]byte{0}, block.Buf...))
		f.Add(b.Buf[1:], uint8(version-54058))
	}
	for i := range clients {
		q := proto.Query{
			ID: "q", Body: "SELECT {p:UInt8}", Stage: proto.StageComplete, Compression: proto.Compression(i % 2),
			Info: proto.ClientInfo{
				Interface: proto.InterfaceTCP, Query: proto.ClientQueryInitial, InitialUser: "u", QuotaKey: "k",
				Span: trace.NewSpanContext(trace.SpanContextConfig{TraceID: trace.TraceID{1}, SpanID: trace.SpanID{2}}),
			},
			Settings:   []proto.Setting{{Key: "max_threads", Value: "1", Important: true}, {Key: "s", Value: "v", Custom: true}},
			Parameters: []proto.Parameter{{Key: "p", Value: "'1'"}},
		}
		seed(i, q)
	}
	f.Fuzz(func(t *testing.T, data []byte, client uint8) {
		version := clients[int(client)%len(clients)]
		src := bufio.NewReader(bytes.NewReader(data))
		before := allocated()
		defer func() {
			// Compressed frames are ch-go's to read: up to 128 MiB for each side of one, whatever comes.
			require.Less(t, allocated()-before, uint64(32*len(data)+(288<<20)))
		}()
		if _, err := (&packet{src: src, left: maxGreeting}).hello(); err != nil {
			return
		}
		code, err := src.ReadByte()
		if err != nil || code != byte(proto.ClientCodeQuery) {
			return
		}
		rest := data[len(data)-src.Buffered():]
		q, err := (&packet{src: src, left: maxQueryBytes}).query(version, oldValue)
		require.Less(t, allocated()-before, uint64(32*len(data)+(4<<20)), "for the query alone")
		if err != nil {
			return
		}
		if proto.FeatureSettingsSerializedAsStrings.In(version) && proto.FeatureClientWriteInfo.In(version) {
			var theirs proto.Query
			if theirs.DecodeAware(proto.NewReader(bytes.NewReader(rest)), version) == nil {
				theirs.Info = proto.ClientInfo{}
				require.Equal(t, &theirs, q)
			}
		}
		in := copier{src: src}
		if q.Compression == proto.CompressionEnabled {
			in.src = bufio.NewReader(compress.NewReader(src))
		}
		_, _ = in.block(framing{info: proto.FeatureBlockInfo.In(version), custom: proto.FeatureCustomSerialization.In(version)}, framing{})
	})
}

// allocated is how many bytes this process has ever asked for.
func allocated() uint64 {
	sample := []metrics.Sample{{Name: "/gc/heap/allocs:bytes"}}
	metrics.Read(sample)
	return sample[0].Value.Uint64()
}

// A few bytes that promise much: a clear error, at once, in little memory.
func TestHostileClients(t *testing.T) {
	uvarint := func(n uint64) string { return string(binary.AppendUvarint(nil, n)) }
	text := func(s string) string { return uvarint(uint64(len(s))) + s }
	block := func(column, typ string, data string) string {
		return uvarint(1) + uvarint(1) + text(column) + text(typ) + data
	}
	hello := func(p *packet) error { _, err := p.hello(); return err }
	query := func(p *packet) error { _, err := p.query(revision, oldValue); return err }
	receive := func(p *packet) error {
		_, err := (&copier{src: p.src}).block(framing{}, framing{})
		return err
	}
	dynamic := strings.Repeat("\x02\x00\x00\x00\x00\x00\x00\x00"+uvarint(1)+text("Dynamic")+strings.Repeat("\x00", 8), 500)
	head := text("id") + "\x01" + text("") + text("") + text("") + strings.Repeat("\x00", 8) + "\x01" + text("") + text("") + text("") +
		"\x00\x00\x00" + text("") + "\x00\x00\x00\x00\x00\x00"
	for name, c := range map[string]struct {
		read func(*packet) error
		data string
		text string
	}{
		"a name longer than memory": {hello, uvarint(1 << 62), "more than a packet may have"},
		"a name that never comes":   {hello, uvarint(maxQueryBytes), "EOF"},
		"a version out of range":    {hello, text("") + uvarint(1<<40), "no number"},
		"a long query id":           {query, uvarint(1 << 40), "more than a packet may have"},
		"an id that never comes":    {query, uvarint(maxQueryBytes), "EOF"},
		"an unknown kind":           {query, text("id") + "\x07", "query kind 7"},
		"another interface":         {query, text("id") + "\x01" + text("") + text("") + text("") + strings.Repeat("\x00", 8) + "\x02", "interface 2"},
		"many settings":             {query, head + strings.Repeat(text("a")+"\x00"+text("b"), maxSettings+1) + text(""), "more than a query may have"},
		"an unknown stage":          {query, head + text("") + text("") + "\x7f\x00", "stage 127"},
		"QBit of nothing":           {receive, block("c", "QBit()", ""), "argument 2 is missing"},
		"QBit of nothing at all":    {receive, block("c", "QBit", ""), "argument 2 is missing"},
		"a long FixedString":        {receive, block("c", "FixedString(4611686018427387904)", ""), "is not a number from 0"},
		"a deep type":               {receive, block("c", strings.Repeat("Array(", 100_000)+"UInt8"+strings.Repeat(")", 100_000), ""), "more than 100 levels"},
		"types within types":        {receive, block("c", "Dynamic", dynamic), "more than 100 levels"},
		"many names":                {receive, block("c", "Dynamic", "\x02\x00\x00\x00\x00\x00\x00\x00"+uvarint(1<<40)), "names in one column"},
		"many rows":                 {receive, uvarint(1) + uvarint(1<<40), "rows in one block"},
		"rows that never come":      {receive, uvarint(1) + uvarint(maxRows) + text("c") + text("UInt64"), "EOF"},
	} {
		t.Run(name, func(t *testing.T) {
			p := &packet{src: bufio.NewReader(strings.NewReader(c.data)), left: maxQueryBytes}
			before := allocated()
			require.ErrorContains(t, c.read(p), c.text)
			require.Less(t, allocated()-before, uint64(64<<20))
		})
	}
}
