package clickhouse

import (
	"bytes"
	"net"
	"runtime/metrics"
	"testing"
	"time"

	"github.com/ClickHouse/ch-go/compress"
	"github.com/ClickHouse/ch-go/proto"
	"github.com/stretchr/testify/require"
)

// canned is a connection from which these bytes come.
type canned struct {
	net.Conn
	*bytes.Reader
}

func (c canned) Read(b []byte) (int, error)      { return c.Reader.Read(b) }
func (canned) SetReadDeadline(_ time.Time) error { return nil }

func cannedSession(data []byte, compressed bool) *session {
	conn := canned{Reader: bytes.NewReader(data)}
	s := &session{conn: conn, in: proto.NewReader(conn), revision: revision}
	if compressed {
		s.frames = newFrames(nil)
	}
	return s
}

// answers are what a server sends, by what it is.
func answers(t testing.TB) map[string][]byte {
	packet := func(encode ...func(*proto.Buffer)) []byte {
		var b proto.Buffer
		for _, e := range encode {
			e(&b)
		}
		return b.Buf
	}
	columns := func(code proto.ServerCode, rows int, columns ...proto.InputColumn) func(*proto.Buffer) {
		return func(b *proto.Buffer) {
			code.Encode(b)
			b.PutString("")
			require.NoError(t, proto.Block{Rows: rows, Columns: len(columns)}.EncodeBlock(b, revision, columns))
		}
	}
	var none, text proto.ColStr
	text.Append("x")
	ids := proto.ColUInt64{7}
	end := func(b *proto.Buffer) { proto.ServerCodeEndOfStream.Encode(b) }
	return map[string][]byte{
		"the table's columns": packet(columns(proto.ServerCodeData, 0, proto.InputColumn{Name: "c", Data: &none}), end),
		"rows":                packet(columns(proto.ServerCodeData, 1, proto.InputColumn{Name: "c", Data: &ids}), end),
		"counters":            packet(columns(proto.ServerProfileEvents, 1, proto.InputColumn{Name: "c", Data: &text}), end),
		"progress": packet(func(b *proto.Buffer) {
			proto.Progress{Rows: 1}.EncodeAware(b, revision)
			proto.Profile{Rows: 1}.EncodeAware(b, revision)
			proto.TableColumns{First: "a", Second: "b"}.EncodeAware(b, revision)
		}, end),
		"an exception": packet(func(b *proto.Buffer) {
			proto.ServerCodeException.Encode(b)
			(&proto.Exception{Code: 60, Name: "DB::Exception", Message: "no table"}).EncodeAware(b, revision)
		}),
	}
}

// FuzzAnswers: whatever a server answers with is read or refused, in memory that grows as data comes.
func FuzzAnswers(f *testing.F) {
	var hello proto.Buffer
	(&proto.ServerHello{Name: "ClickHouse", Major: 26, Minor: 5, Revision: revision, Timezone: "UTC"}).EncodeAware(&hello, revision)
	f.Add(hello.Buf[1:], uint8(3), false)
	for _, data := range answers(f) {
		for into := range uint8(4) {
			f.Add(data, into, false)
		}
	}
	w := compress.NewWriter(compress.LevelZero, compress.LZ4)
	require.NoError(f, w.Compress([]byte{0, 1, 0}))
	f.Add(append([]byte{byte(proto.ServerCodeData), 0}, w.Data...), uint8(0), true)
	f.Fuzz(func(t *testing.T, data []byte, into uint8, compressed bool) {
		before, bound := allocated(), uint64(64*len(data)+(16<<20))
		if compressed {
			bound += 300 << 20 // ch-go makes room for both sides of a frame, 128 MiB each
		}
		s := cannedSession(data, compressed)
		if into%4 == 3 {
			_, _ = readHello(s.in)
			require.Less(t, allocated()-before, bound)
			return
		}
		result := []proto.Result{&tableColumns{}, &rowNumbers{}, &scanned{names: []string{"c"}}}[into%4]
		for range 100 {
			if code, err := s.next(result); err != nil || code == proto.ServerCodeEndOfStream {
				break
			}
		}
		require.Less(t, allocated()-before, bound)
	})
}

// allocated is how many bytes this process has ever asked for.
func allocated() uint64 {
	sample := []metrics.Sample{{Name: "/gc/heap/allocs:bytes"}}
	metrics.Read(sample)
	return sample[0].Value.Uint64()
}

// A few bytes that promise much, from a server or from whatever else listens there: a clear error in little memory.
func TestHostileServers(t *testing.T) {
	huge := []byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f}
	exception := []byte{byte(proto.ServerCodeException), 1, 0, 0, 0}
	data := []byte{byte(proto.ServerCodeData), 0, 0}
	events := []byte{byte(proto.ServerProfileEvents), 0, 0, 1, 0x80, 0x80, 0x80, 0x20, 1, 'c', 6}
	for name, c := range map[string]struct {
		answer []byte
		text   string
	}{
		"an exception's name": {append(exception, huge...), "a text of"},
		"a block's name":      {append(data[:1:1], huge...), "a text of"},
		"columns":             {append(data, append(huge, 1)...), "columns"},
		"a column's name":     {append(append(data, 1, 0), huge...), "a text of"},
		"rows of counters":    {append(events, "UInt64"...), "EOF"},
		"rows of logs":        {append([]byte{byte(proto.ServerCodeLog), 0, 0, 1, 0x80, 0x80, 0x80, 0x20, 1, 'c', 6}, "String"...), "EOF"},
		"another protocol":    {[]byte("HTTP/1.1 400 Bad Request\r\n"), "unexpected packet"},
	} {
		t.Run(name, func(t *testing.T) {
			before := allocated()
			_, err := cannedSession(c.answer, false).next(&tableColumns{})
			require.ErrorContains(t, err, c.text)
			require.Less(t, allocated()-before, uint64(8<<20))
		})
	}
	_, err := readHello(cannedSession(huge, false).in)
	require.ErrorContains(t, err, "a text of")
	for name, answer := range answers(t) {
		code, err := cannedSession(answer, false).next(discarded{})
		if name == "an exception" {
			require.ErrorContains(t, err, "no table")
			continue
		}
		require.NoError(t, err, name)
		require.Contains(t, []proto.ServerCode{proto.ServerCodeData, proto.ServerCodeEndOfStream}, code, name)
	}
}
