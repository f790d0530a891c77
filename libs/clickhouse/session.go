package clickhouse

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"time"

	"github.com/ClickHouse/ch-go/proto"
)

const (
	// revision of the protocol that we speak: below 54454, where columns may come and go in custom
	// serializations and clients send addenda; nothing that an insert needs came later.
	revision = 54453
	// answerTimeout is how long the server may be silent while it inserts. Newer servers send progress
	// ten times a second; 18.16 is silent until it is done.
	answerTimeout = 5 * time.Minute
	clientName    = "sluice"
)

// endpoint is how to reach one address.
type endpoint struct {
	addr     string
	username string
	password string
	tls      *tls.Config
}

// session is one connection that inserts. Not for concurrent use. After an error it is of no further use.
//
// It is written out here, on ch-go's encodings, because ch-go's own client cannot talk to servers before
// 20.1, holds a second and third copy of each block in memory, and an insert needs so little of the protocol.
type session struct {
	conn     net.Conn
	addr     string
	out      *bufio.Writer
	in       *proto.Reader
	block    *proto.Writer // writes into frames or out
	frames   *frames       // nil: not compressed
	hello    proto.ServerHello
	revision int
	username string
}

func dial(ctx context.Context, e endpoint) (_ *session, err error) {
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	plain := net.Dialer{KeepAliveConfig: net.KeepAliveConfig{
		Enable: true, Idle: 10 * time.Second, Interval: 5 * time.Second, Count: 4,
	}}
	var conn net.Conn
	if e.tls != nil {
		conn, err = (&tls.Dialer{NetDialer: &plain, Config: e.tls}).DialContext(ctx, "tcp", e.addr)
	} else {
		conn, err = plain.DialContext(ctx, "tcp", e.addr)
	}
	if err != nil {
		return nil, fmt.Errorf("connect to clickhouse %s: %w", e.addr, err)
	}
	s := &session{conn: conn, addr: e.addr, out: newWriter(conn), in: proto.NewReader(conn), username: e.username}
	if !isLoopback(conn.RemoteAddr()) {
		s.frames = newFrames(s.out) // on loopback compression costs more than it saves
		s.block = proto.NewWriter(s.frames, new(proto.Buffer))
	} else {
		s.block = proto.NewWriter(s.out, new(proto.Buffer))
	}
	stop := s.closeWith(ctx)
	defer stop()
	if err := s.handshake(e); err != nil {
		_ = conn.Close()
		return nil, fmt.Errorf("greet clickhouse %s: %w", e.addr, cause(ctx, err))
	}
	return s, nil
}

func isLoopback(a net.Addr) bool {
	t, ok := a.(*net.TCPAddr)
	return ok && t.IP.IsLoopback()
}

// closeWith makes every read and write fail once ctx ends.
func (s *session) closeWith(ctx context.Context) (stop func() bool) {
	return context.AfterFunc(ctx, func() { _ = s.conn.Close() })
}

// cause prefers the reason why ctx ended to the closed connection that it led to.
func cause(ctx context.Context, err error) error {
	if ctx.Err() == nil || isServerError(err) {
		return err
	}
	return fmt.Errorf("%w (%v)", context.Cause(ctx), err)
}

func isServerError(err error) bool {
	var s *ServerError
	return errors.As(err, &s)
}

func (s *session) handshake(e endpoint) error {
	if err := s.conn.SetReadDeadline(time.Now().Add(dialTimeout)); err != nil {
		return err
	}
	var buf proto.Buffer
	proto.ClientHello{
		Name: clientName, Major: 1, Minor: 0, ProtocolVersion: revision,
		User: e.username, Password: e.password,
	}.Encode(&buf)
	if err := s.send(buf.Buf); err != nil {
		return err
	}
	s.revision = revision
	code, err := s.in.UVarInt()
	if err != nil {
		return err
	}
	switch proto.ServerCode(code) {
	case proto.ServerCodeException:
		return s.exception()
	case proto.ServerCodeHello:
	default:
		return fmt.Errorf("not a ClickHouse native port: it answers with packet %d", code)
	}
	if s.hello, err = readHello(s.in); err != nil {
		return err
	}
	s.revision = min(revision, s.hello.Revision)
	return nil
}

func (s *session) version() Version { return Version{s.hello.Major, s.hello.Minor} }

func (s *session) close() { _ = s.conn.Close() }

func (s *session) send(b []byte) error {
	if _, err := s.out.Write(b); err != nil {
		return err
	}
	return s.out.Flush()
}

// next reads packets until one that matters: Data (of an insert, the table's columns), which is read into the
// given result, EndOfStream, or Exception, which comes as an error.
func (s *session) next(into proto.Result) (proto.ServerCode, error) {
	for {
		if err := s.conn.SetReadDeadline(time.Now().Add(answerTimeout)); err != nil {
			return 0, err
		}
		n, err := s.in.UVarInt()
		if err != nil {
			return 0, fmt.Errorf("read the answer: %w", err)
		}
		switch code := proto.ServerCode(n); code {
		case proto.ServerCodeException:
			return 0, s.exception()
		case proto.ServerCodeEndOfStream:
			return code, nil
		case proto.ServerCodeData:
			return code, s.readBlock(into, s.frames != nil)
		case proto.ServerCodeProgress:
			var p proto.Progress
			err = p.DecodeAware(s.in, s.revision)
		case proto.ServerCodeProfile:
			var p proto.Profile
			err = p.DecodeAware(s.in, s.revision)
		case proto.ServerCodeTableColumns:
			var name, columns string
			err = readTexts(s.in, &name, &columns)
		case proto.ServerProfileEvents, proto.ServerCodeLog:
			err = s.readBlock(discarded{}, false)
		default:
			return 0, fmt.Errorf("read the answer: unexpected packet %d", n)
		}
		if err != nil {
			return 0, fmt.Errorf("read the answer: %w", err)
		}
	}
}
