package clickhouse

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"testing"

	"github.com/ClickHouse/ch-go/proto"
	"github.com/stretchr/testify/require"
)

// every is one expression for each column type that the engine can make.
var every = []string{
	"toUInt8(number)", "toUInt256(number)", "toInt128(-number)", "toFloat32(number)", "toBFloat16(number)", "number % 2 = 0",
	"toString(number)", "toFixedString(toString(number % 10), 3)", "toNullable(number)", "if(number % 2, NULL, toString(number))",
	"toLowCardinality(toString(number % 7))", "CAST(if(number % 2, NULL, 'x'), 'LowCardinality(Nullable(String))')",
	"range(number % 5)", "[[toLowCardinality('a')], []]", "map(toString(number), number)", "map('k', [toLowCardinality('v')])",
	"tuple(number, 'x', [1])", "CAST((number, 'x'), 'Tuple(a UInt64, `b c` String)')",
	"CAST(number % 2, 'Enum8(\\'a, (\\' = 0, \\'b\\' = 1)')", "CAST(number % 2, 'Enum16(\\'a\\' = 0, \\'b\\' = 1)')",
	"toDecimal32(number % 9, 2)", "toDecimal64(number, 3)", "toDecimal128(number, 4)", "toDecimal256(number, 5)",
	"toDate(number)", "toDate32(number)", "toDateTime(number, 'UTC')", "toDateTime64(number, 6, 'UTC')",
	"CAST(number % 86400, 'Time')", "CAST(number % 86400, 'Time64(3)')",
	"generateUUIDv4(number)", "toIPv4('1.2.3.4')", "toIPv6('::1')",
	"CAST((1., 2.), 'Point')", "CAST([(1., 2.)], 'Ring')", "CAST([[(1., 2.)]], 'Polygon')",
	"CAST(if(number % 2, CAST(number, 'Variant(String, UInt64, Array(UInt64))'), NULL), 'Variant(String, UInt64, Array(UInt64))')",
	"CAST(multiIf(number % 3 = 0, CAST(number, 'Dynamic'), number % 3 = 1, CAST(toString(number), 'Dynamic'), CAST([1, 2], 'Dynamic')), 'Dynamic')",
	"CAST(concat('{\"a\": ', toString(number), ', \"b\": {\"c\": [1, \"x\"]}, \"k', toString(number % 3), '\": true}'), 'JSON')",
	"CAST('{\"a\": 1, \"z\": \"q\"}', 'JSON(a UInt32, max_dynamic_paths = 1, SKIP y)')",
	"CAST([(1, 'x')], 'Nested(a UInt8, b String)')", "tuple()", "[tuple()]",
	"CAST(number, 'SimpleAggregateFunction(sum, UInt64)')",
}

// raw is a client that knows nothing about types: it keeps blocks as bytes.
type raw struct {
	t   *testing.T
	nc  net.Conn
	r   *bufio.Reader
	pr  *proto.Reader
	out proto.Buffer
}

func dialRaw(t *testing.T, addr string) *raw {
	nc, err := net.Dial("tcp", addr)
	require.NoError(t, err)
	c := &raw{t: t, nc: nc, r: bufio.NewReaderSize(nc, readBuffer)}
	c.pr = proto.NewReader(c.r)
	proto.ClientHello{Name: "raw", ProtocolVersion: revision, Database: "default"}.Encode(&c.out)
	c.flush()
	require.Equal(t, byte(proto.ServerCodeHello), c.code())
	var hello proto.ServerHello
	require.NoError(t, hello.DecodeAware(c.pr, revision))
	c.out.PutString("") // quota key
	return c
}

func (c *raw) flush() {
	_, err := c.nc.Write(c.out.Buf)
	require.NoError(c.t, err)
	c.out.Reset()
}

func (c *raw) code() byte {
	b, err := c.r.ReadByte()
	require.NoError(c.t, err)
	return b
}

func (c *raw) data(block []byte) {
	proto.ClientCodeData.Encode(&c.out)
	c.out.PutString("")
	c.out.PutRaw(block)
	c.flush()
}

// do runs a query. It sends the given blocks when the server asks for rows, and returns the blocks that it got.
func (c *raw) do(query string, blocks ...[]byte) (got [][]byte, err error) {
	const none = noInfo + "\x00\x00"
	proto.Query{Body: query, Stage: proto.StageComplete, Info: proto.ClientInfo{
		ProtocolVersion: revision, Interface: proto.InterfaceTCP, Query: proto.ClientQueryInitial,
	}}.EncodeAware(&c.out, revision)
	c.data([]byte(none))
	sent := len(blocks) == 0
	for {
		switch code := proto.ServerCode(c.code()); code {
		case proto.ServerCodeData:
			_, err := c.pr.Str()
			require.NoError(c.t, err)
			in := copier{src: c.r}
			h, err := in.block(framing{info: true, custom: true}, framing{info: true, custom: true})
			require.NoError(c.t, err)
			if h.rows > 0 {
				got = append(got, in.dst)
			}
			if !sent {
				sent = true
				for _, b := range blocks {
					c.data(b)
				}
				c.data([]byte(none))
			}
		case proto.ServerCodeException:
			var e proto.Exception
			require.NoError(c.t, e.DecodeAware(c.pr, revision))
			return nil, fmt.Errorf("%d %s", e.Code, e.Message)
		case proto.ServerCodeProgress:
			var p proto.Progress
			require.NoError(c.t, p.DecodeAware(c.pr, revision))
		case proto.ServerCodeProfile:
			var p proto.Profile
			require.NoError(c.t, p.DecodeAware(c.pr, revision))
		case proto.ServerCodeEndOfStream:
			return got, nil
		default:
			require.Failf(c.t, "packet", "%d", code)
		}
	}
}

func openTest(t *testing.T) *Server {
	library, err := Library(t.Context(), io.Discard)
	if err != nil {
		t.Skipf("skipped: %v", err) // clickhousetest decides for all other tests; TestRoundTrip fails with CI=true
	}
	s, err := Open(Config{Dir: t.TempDir(), Library: library})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, s.Close()) })
	return s
}

// TestEveryType reads columns of every type and sends the very bytes back.
func TestEveryType(t *testing.T) {
	s := openTest(t)
	const settings = " SETTINGS allow_suspicious_low_cardinality_types = 1, allow_suspicious_variant_types = 1, enable_time_time64_type = 1"
	for i, expr := range every {
		t.Run(expr, func(t *testing.T) {
			c := dialRaw(t, s.Addr())
			defer func() { require.NoError(t, c.nc.Close()) }()
			from, to := fmt.Sprintf("s%d", i), fmt.Sprintf("t%d", i)
			_, err := c.do("CREATE TABLE " + from + " ENGINE = MergeTree ORDER BY number AS SELECT number, " + expr + " AS v, 'after' AS e FROM numbers(1000)" + settings)
			require.NoError(t, err)
			_, err = c.do("CREATE TABLE " + to + " AS " + from)
			require.NoError(t, err)
			blocks, err := c.do("SELECT number, v, e FROM " + from + " ORDER BY number")
			require.NoError(t, err)
			require.NotEmpty(t, blocks)
			_, err = c.do("INSERT INTO "+to+" (number, v, e) VALUES", blocks...)
			require.NoError(t, err)
			_, err = c.do(`SELECT throwIf(count() != 1000 OR countIf(formatRow('JSONCompactEachRow', a.v, a.e) != formatRow('JSONCompactEachRow', b.v, b.e)) != 0)
				FROM ` + from + ` AS a INNER JOIN ` + to + ` AS b ON a.number = b.number`)
			require.NoError(t, err)
		})
	}
}
