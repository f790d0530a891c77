package clickhouse

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/ClickHouse/ch-go/compress"
	"github.com/ClickHouse/ch-go/proto"
	"github.com/google/uuid"
)

// clientError wraps what went wrong on the wire, after which nothing can be said to the client.
type clientError struct{ error }

func (e clientError) Unwrap() error { return e.error }

// query answers one Query packet. An error ends the connection.
func (c *conn) query() error {
	q, err := c.decodeQuery()
	if err != nil {
		return err
	}
	if q.ID == "" {
		q.ID = uuid.NewString()
	}
	c.pack = nil
	if q.Compression == proto.CompressionEnabled {
		c.pack = compress.NewWriter(compress.LevelZero, compressionMethod(q.Settings))
	}
	run, err := c.server.queries.add(q.ID, q.Body, c.tag, func() { _ = c.nc.SetReadDeadline(time.Unix(1, 0)) })
	if err != nil {
		if err := c.noTables(); err != nil {
			return err
		}
		return c.fail(err)
	}
	c.running(run)
	err = c.noTables()
	if err == nil {
		err = c.run(run, q)
	}
	c.running(nil)
	c.server.queries.remove(run)

	var wire clientError
	switch {
	case err == nil:
		proto.ServerCodeEndOfStream.Encode(&c.out)
		return c.flush()
	case errors.As(err, &wire):
		if run.wasKilled() {
			_ = c.nc.SetReadDeadline(time.Time{})
			return errors.Join(err, c.fail(errKilled))
		}
		return err
	}
	return c.fail(err)
}

func compressionMethod(settings []proto.Setting) compress.Method {
	for _, s := range settings {
		if strings.EqualFold(s.Key, "network_compression_method") {
			switch strings.ToUpper(s.Value) {
			case "ZSTD":
				return compress.ZSTD
			case "NONE":
				return compress.None
			}
		}
	}
	return compress.LZ4
}

// noTables reads the Data packets that follow a query: external tables, of which there must be none, and an empty block.
func (c *conn) noTables() error {
	refused := false
	for {
		code, err := c.raw.ReadByte()
		if err != nil {
			return clientError{err}
		}
		if code != byte(proto.ClientCodeData) {
			return clientError{fmt.Errorf("packet %d after a query", code)}
		}
		h, err := c.receive()
		if err != nil {
			return clientError{err}
		}
		if h.columns == 0 {
			break
		}
		refused = true
	}
	if refused {
		return &exception{codeNotImplemented, "External tables are not supported by this server"}
	}
	return nil
}

// run runs the query and sends what it answers with.
func (c *conn) run(run *running, q *proto.Query) (err error) {
	st, err := parseStatement(q.Body)
	if err != nil {
		return err
	}
	params := make([]param, 0, len(q.Parameters))
	for _, p := range q.Parameters {
		params = append(params, param{p.Key, unquote(p.Value)})
	}
	if st.kind == sets { // the query's own settings are no part of the session
		c.session.changed = true
	} else {
		if st.kind == insertRows {
			// A server does not make defaults of NULLs that come as blocks, nor does it queue a block once more.
			q.Settings = append(q.Settings, proto.Setting{Key: "input_format_null_as_default", Value: "0"})
		}
		undo, err := c.session.apply(q.Settings)
		if err != nil {
			return err
		}
		defer func() {
			if e := undo(); e != nil && err == nil {
				err = e
			}
		}()
	}
	switch st.kind {
	case insertRows:
		return c.insert(run, st, params)
	case kills:
		if ids, ok := killedIDs(st.text); ok {
			return c.kill(run, c.server.queries.find(func(id string) bool { return slices.Contains(ids, id) }))
		}
		if prefix, ok := killedPrefix(st.text); ok {
			return c.kill(run, c.server.queries.find(func(id string) bool { return strings.HasPrefix(id, prefix) }))
		}
	}
	if err := run.enter(); err != nil {
		return err
	}
	return c.answer(run, st, params)
}

// answer runs a statement that needs no rows from the client, and sends its result.
func (c *conn) answer(run *running, st *statement, params []param) error {
	s := &sender{conn: c, run: run}
	var err error
	stop := c.cancelable(run, !st.insert || st.word == "INSERT", &s.cancelled)
	if st.kind == selects {
		err = c.session.stream(st.text, "Native", params, s.chunk)
	}
	var e *exception
	if st.kind != selects || errors.As(err, &e) && strings.HasPrefix(e.message, "Streaming query is not supported") {
		var data []byte
		if data, err = c.session.query(st.text, "Native", params...); err == nil {
			err = s.chunk(data, progress{})
		}
	}
	stop()
	if s.cancelled.Load() && !run.wasKilled() {
		err = nil // the client does not want to know
	}
	if err == nil && s.blocks == 0 && !s.cancelled.Load() {
		err = s.header(c.columnsOf(st, params))
	}
	if err != nil {
		return err
	}
	if s.sent {
		// Calculated, as a server says: a client that has to calculate for itself may crash (18.16 does).
		proto.Profile{Rows: s.rows, Blocks: s.blocks, Bytes: s.bytes, CalculatedRowsBeforeLimit: true}.EncodeAware(&c.out, c.version)
	}
	c.progress(proto.Progress{Rows: s.read.rows, Bytes: s.read.bytes})
	return nil
}

// cancelable ends the query in the engine when the client cancels it or goes. The returned function must be called when
// the engine is done.
func (c *conn) cancelable(run *running, orLeaves bool, cancelled *atomic.Bool) (stop func()) {
	ended := make(chan struct{})
	var wg sync.WaitGroup
	unwatch := c.watch(orLeaves, func() {
		cancelled.Store(true)
		wg.Go(func() {
			tick := time.NewTicker(killEvery)
			defer tick.Stop()
			for { // again, because the engine may not know the query yet
				if err := cancelTagged(process.root, run.tag); err != nil {
					c.server.log.Warn("ClickHouse query could not be cancelled", "query_id", run.id, "error", err.Error())
				}
				select {
				case <-ended:
					return
				case <-tick.C:
				}
			}
		})
	})
	return func() {
		close(ended)
		unwatch()
		wg.Wait()
	}
}

func (c *conn) progress(p proto.Progress) {
	proto.ServerCodeProgress.Encode(&c.out)
	p.EncodeAware(&c.out, c.version)
}

// sender turns the engine's output into Data packets.
type sender struct {
	conn      *conn
	run       *running
	in        copier
	src       bytes.Reader
	cancelled atomic.Bool
	sent      bool // the header at least

	rows, blocks, bytes uint64
	read                progress
}

// chunk sends the blocks in data.
func (s *sender) chunk(data []byte, read progress) error {
	s.read.rows += read.rows
	s.read.bytes += read.bytes
	if s.in.src == nil {
		s.in.src = bufio.NewReaderSize(&s.src, readBuffer)
	}
	s.src.Reset(data)
	s.in.src.Reset(&s.src)
	for {
		s.in.dst, s.in.columns = s.in.dst[:0], s.in.columns[:0]
		h, err := s.in.block(framing{}, s.conn.framing())
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return &exception{codeNotImplemented, err.Error()}
		}
		if s.cancelled.Load() || s.run.wasKilled() {
			return errKilled
		}
		if !s.sent {
			if err := s.header(s.in.columns, nil); err != nil {
				return err
			}
		}
		if err := s.conn.send(s.in.dst); err != nil {
			return clientError{err}
		}
		s.rows += uint64(h.rows)
		s.bytes += uint64(len(s.in.dst))
		s.blocks++
	}
}

// header sends a block without rows, as servers do before the first rows.
func (s *sender) header(columns []column, err error) error {
	if err != nil {
		return err
	}
	s.sent = len(columns) > 0
	if !s.sent {
		return nil
	}
	if err := s.conn.send(s.conn.headerBlock(columns)); err != nil {
		return clientError{err}
	}
	return nil
}

type column struct{ name, typ string }

func (c *conn) headerBlock(columns []column) []byte { return c.block(columns, nil, 0) }

// block makes a block of String columns, or of any columns when there are no rows.
func (c *conn) block(columns []column, values [][]string, rows int) []byte {
	f := c.framing()
	var b []byte
	if f.info {
		b = append(b, noInfo...)
	}
	b = binary.AppendUvarint(b, uint64(len(columns)))
	b = binary.AppendUvarint(b, uint64(rows))
	for i, col := range columns {
		b = appendString(appendString(b, col.name), col.typ)
		if f.custom {
			b = append(b, 0)
		}
		for r := range rows {
			b = appendString(b, values[i][r])
		}
	}
	return b
}

func appendString(b []byte, s string) []byte {
	return append(binary.AppendUvarint(b, uint64(len(s))), s...)
}

// columnsOf finds the columns of a result without rows, of which the engine says nothing.
func (c *conn) columnsOf(st *statement, params []param) ([]column, error) {
	var text []byte
	var err error
	switch {
	case st.kind == selects:
		text, err = c.session.query("DESCRIBE ("+st.text+"\n)", "TabSeparated", params...)
		if err != nil {
			return nil, err
		}
		return parseColumns(text), nil
	case st.word == "SHOW", st.word == "DESCRIBE", st.word == "DESC", st.word == "EXPLAIN", st.word == "EXISTS", st.word == "CHECK", st.word == "KILL":
		if text, err = c.session.query(st.text, "TabSeparatedWithNamesAndTypes", params...); err != nil {
			return nil, err
		}
		lines := strings.SplitN(string(text), "\n", 3)
		if len(lines) < 2 {
			return nil, nil
		}
		names, types := strings.Split(lines[0], "\t"), strings.Split(lines[1], "\t")
		var out []column
		for i := range min(len(names), len(types)) {
			out = append(out, column{untab(names[i]), untab(types[i])})
		}
		return out, nil
	}
	return nil, nil
}

// parseColumns reads the name and the type from DESCRIBE's answer.
func parseColumns(text []byte) []column {
	var out []column
	for line := range strings.Lines(string(text)) {
		if f := strings.Split(strings.TrimSuffix(line, "\n"), "\t"); len(f) >= 2 {
			out = append(out, column{untab(f[0]), untab(f[1])})
		}
	}
	return out
}

// untab undoes the escaping of a TabSeparated field.
func untab(s string) string {
	if strings.IndexByte(s, '\\') < 0 {
		return s
	}
	return unquote("\"" + strings.ReplaceAll(s, `"`, `\"`) + "\"")
}
