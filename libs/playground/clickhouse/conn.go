package clickhouse

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/ClickHouse/ch-go/compress"
	"github.com/ClickHouse/ch-go/proto"
)

const (
	// revision is what this server speaks: the highest that clickhouse-go and ch-go know, with query parameters.
	revision   = 54460
	readBuffer = 256 << 10
)

// conn is one client. Its fields belong to serve, but for those under mu.
type conn struct {
	server *Server
	nc     net.Conn
	tag    string

	raw      *bufio.Reader // what the client sends
	unpacked *bufio.Reader // raw, decompressed
	version  int           // the lower of both sides' revisions
	session  *session
	out      proto.Buffer
	pack     *compress.Writer // of the query's answer, nil: not compressed
	in       copier           // the client's blocks

	mu      sync.Mutex
	current *running // guarded by mu
}

func newConn(s *Server, nc net.Conn, tag string) *conn {
	c := &conn{server: s, nc: nc, tag: tag, raw: bufio.NewReaderSize(nc, readBuffer)}
	c.unpacked = bufio.NewReaderSize(compress.NewReader(c.raw), readBuffer)
	return c
}

// serve speaks with the client until it goes, or until one side cannot be understood any more.
func (c *conn) serve() error {
	if err := c.hello(); err != nil {
		return err
	}
	defer c.session.close()
	for {
		code, err := c.raw.ReadByte()
		if err != nil {
			return err
		}
		switch proto.ClientCode(code) {
		case proto.ClientCodePing:
			proto.ServerCodePong.Encode(&c.out)
			if err := c.flush(); err != nil {
				return err
			}
		case proto.ClientCodeQuery:
			if err := c.query(); err != nil {
				return err
			}
		case proto.ClientCodeData: // of an INSERT that was refused
			if _, err := c.receive(); err != nil {
				return err
			}
		case proto.ClientCodeCancel: // of a query that has ended
		default:
			err := &exception{codeUnexpectedPacket, fmt.Sprintf("Unexpected packet %d received from client", code)}
			return errors.Join(err, c.fail(err))
		}
	}
}

func (c *conn) hello() error {
	code, err := c.raw.ReadByte()
	if err != nil {
		return err
	}
	if code != byte(proto.ClientCodeHello) {
		err := &exception{codeUnexpectedPacket, "Unexpected packet from client (expected Hello)"}
		return errors.Join(err, c.fail(err))
	}
	hello, err := c.packet(maxGreeting).hello()
	if err != nil {
		return fmt.Errorf("read a greeting: %w", err)
	}
	c.version = min(hello.ProtocolVersion, revision)
	if c.session, err = openSession(&process, c.tag); err != nil {
		return errors.Join(err, c.fail(err))
	}
	if hello.Database != "" {
		if _, err := c.session.query("USE "+quoteName(hello.Database), "Null"); err != nil {
			c.session.close()
			return errors.Join(err, c.fail(err))
		}
	}
	answer := proto.ServerHello{Name: "ClickHouse", Revision: revision, Timezone: process.timezone, DisplayName: "sluice"}
	answer.Major, answer.Minor, answer.Patch = versionNumbers(process.version)
	answer.EncodeAware(&c.out, c.version)
	if err := c.flush(); err != nil {
		c.session.close()
		return err
	}
	if proto.FeatureAddendum.In(c.version) {
		if _, err := c.packet(maxGreeting).string(); err != nil { // quota key
			c.session.close()
			return err
		}
	}
	return nil
}

func versionNumbers(version string) (major, minor, patch int) {
	var n [3]int
	for i, part := range strings.SplitN(version, ".", 4) {
		if i < len(n) {
			n[i], _ = strconv.Atoi(part)
		}
	}
	return n[0], n[1], n[2]
}

func (c *conn) flush() error {
	_, err := c.nc.Write(c.out.Buf)
	c.out.Reset()
	return err
}

// fail sends an exception.
func (c *conn) fail(cause error) error {
	var e *exception
	if !errors.As(cause, &e) {
		e = &exception{codeUnknownException, cause.Error()}
	}
	const name = "DB::Exception"
	proto.ServerCodeException.Encode(&c.out)
	(&proto.Exception{Code: proto.Error(e.code), Name: name, Message: name + ": " + e.message}).EncodeAware(&c.out, c.version)
	return c.flush()
}

// framing of the blocks on this connection.
func (c *conn) framing() framing {
	return framing{info: proto.FeatureBlockInfo.In(c.version), custom: proto.FeatureCustomSerialization.In(c.version)}
}

// receive reads what follows the code of a Data packet: the name of a table, which nobody needs, and the block, which it
// leaves in c.in.dst as it stands in a Native file.
func (c *conn) receive() (h blockHead, err error) {
	if proto.FeatureTempTables.In(c.version) {
		if _, err := c.packet(maxGreeting).string(); err != nil {
			return h, err
		}
	}
	c.in.src, c.in.dst = c.raw, c.in.dst[:0]
	if c.pack != nil {
		c.in.src = c.unpacked
	}
	if h, err = c.in.block(c.framing(), framing{}); errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	return h, err
}

// frameBytes is how much of a block is compressed at once.
const frameBytes = 1 << 20

// send sends a block that is framed for the client.
func (c *conn) send(block []byte) error {
	proto.ServerCodeData.Encode(&c.out)
	if proto.FeatureTempTables.In(c.version) {
		c.out.PutString("")
	}
	if c.pack == nil {
		if err := c.flush(); err != nil {
			return err
		}
		_, err := c.nc.Write(block)
		return err
	}
	for len(block) > 0 {
		n := min(len(block), frameBytes)
		if err := c.pack.Compress(block[:n]); err != nil {
			return fmt.Errorf("compress a block: %w", err)
		}
		c.out.PutRaw(c.pack.Data)
		if err := c.flush(); err != nil {
			return err
		}
		block = block[n:]
	}
	return nil
}

// watch looks, while the engine works, at what the client does: gone is called when it cancels the query or, if
// orLeaves, closes the connection. It must be stopped before the next read.
func (c *conn) watch(orLeaves bool, gone func()) (stop func()) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		next, err := c.raw.Peek(1)
		switch {
		case err == nil && next[0] == byte(proto.ClientCodeCancel):
			_, _ = c.raw.Discard(1)
			gone()
		case err != nil && !isTimeout(err) && orLeaves:
			gone()
		}
	}()
	return func() {
		_ = c.nc.SetReadDeadline(time.Unix(1, 0))
		<-done
		_ = c.nc.SetReadDeadline(time.Time{})
	}
}

func isTimeout(err error) bool {
	var t net.Error
	return errors.As(err, &t) && t.Timeout()
}

// running marks q as the query of this connection; nil: none.
func (c *conn) running(q *running) {
	c.mu.Lock()
	c.current = q
	c.mu.Unlock()
}

// abort ends the query, if one runs. The server calls it after it has closed the connection.
func (c *conn) abort() {
	c.mu.Lock()
	q := c.current
	c.mu.Unlock()
	if q != nil {
		if err := q.end(process.root, nil); err != nil {
			c.server.log.Warn("ClickHouse query could not be ended", "query_id", q.id, "error", err.Error())
		}
	}
}
