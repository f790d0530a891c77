package clickhouse

import (
	"context"
	"fmt"
	"strings"

	"github.com/ClickHouse/ch-go/proto"

	controlv1 "sluice/gen/sluice/control/v1"
	"sluice/libs/native"
)

// Scan reads columns of a table from one end to the other, each row once and in no order.
type Scan struct {
	Table Name
	// Columns to read; at least one. Those of JSON and Dynamic cannot be read: see native.Hashable.
	Columns []string
	// Where is a condition in ClickHouse's SQL on the rows to read; empty: all.
	Where string
	// Opened is called once the server has chosen what it reads, before it sends the first row: a MergeTree table reads the
	// parts that it has at that time, whatever is inserted later. An error ends the scan. Nil: none.
	Opened func() error
	// Rows is called with each block. The columns, in the order of Columns, are used again for the next.
	Rows func(columns []*native.Column) error
}

// Read is what a scan has read.
type Read struct {
	Rows  uint64
	Bytes uint64 // of the values, uncompressed
}

func (s Scan) sql() string {
	quoted := make([]string, len(s.Columns))
	for i, c := range s.Columns {
		quoted[i] = Quote(c)
	}
	sql := "SELECT " + strings.Join(quoted, ", ") + " FROM " + s.Table.Quoted()
	if s.Where != "" {
		sql += " WHERE (\n" + s.Where + "\n)" // on a line of its own: it may end in a comment
	}
	return sql
}

// Run reads the table from the first of the sink's addresses that answers. Memory is bounded by the server's blocks, of which
// there is one at a time. When ctx ends the connection is closed, which ends the query.
func (s Scan) Run(ctx context.Context, sink *controlv1.ClickHouseSink) (read Read, err error) {
	n, err := NewInserter(&controlv1.ClickHouseSink{Addr: sink.GetAddr(), Username: sink.GetUsername(), Password: sink.GetPassword(), Tls: sink.GetTls()})
	if err != nil {
		return read, err
	}
	defer n.Close()
	if err := n.connect(ctx); err != nil {
		return read, err
	}
	session := n.session
	stop := session.closeWith(ctx)
	defer func() {
		stop()
		if err != nil {
			err = fmt.Errorf("read table %s: %w", s.Table, cause(ctx, err))
		}
	}()
	if err := session.writeQuery(ctx, "", nil, s.sql()); err != nil {
		return read, err
	}
	block := &scanned{names: s.Columns}
	opened := s.Opened == nil
	for {
		code, err := session.next(block)
		if err != nil {
			return read, err
		}
		if !opened {
			opened = true
			if err := s.Opened(); err != nil {
				return read, err
			}
		}
		if code == proto.ServerCodeEndOfStream {
			return read, nil
		}
		if block.rows == 0 {
			continue // the head, which tells the types
		}
		read.Rows += uint64(block.rows)
		for _, c := range block.columns {
			read.Bytes += uint64(c.Size())
		}
		if err := s.Rows(block.columns); err != nil {
			return read, err
		}
	}
}

// scanned is a block of a scan. It is a proto.Result.
type scanned struct {
	names   []string
	rows    int
	columns []*native.Column
	types   []string
}

func (b *scanned) DecodeResult(r *proto.Reader, _ int, head proto.Block) error {
	b.rows = 0
	if head.Columns == 0 {
		return nil // the end of the data
	}
	if head.Columns != len(b.names) {
		return fmt.Errorf("%d columns, asked for were %d", head.Columns, len(b.names))
	}
	if b.columns == nil {
		b.columns, b.types = make([]*native.Column, len(b.names)), make([]string, len(b.names))
	}
	for i, name := range b.names {
		if _, err := readText(r); err != nil { // the name: the order is ours
			return err
		}
		typ, err := readText(r)
		if err != nil {
			return err
		}
		if b.columns[i] == nil || b.types[i] != typ {
			parsed, err := native.ParseType(typ)
			if err != nil {
				return fmt.Errorf("column %s: %w", Quote(name), err)
			}
			b.columns[i], b.types[i] = native.NewColumn(parsed, false), typ
		}
		b.columns[i].Reset()
		if err := b.columns[i].ReadBlock(r, head.Rows); err != nil {
			return fmt.Errorf("column %s: %w", Quote(name), err)
		}
	}
	b.rows = head.Rows
	return nil
}

// RowOf is one row of the columns of a scan's block, as a block of its own: RenderRow shows it.
func RowOf(names []string, columns []*native.Column, row int) ([]proto.InputColumn, error) {
	out := make([]proto.InputColumn, len(columns))
	for i, c := range columns {
		keep := make([]byte, (c.Rows()+7)/8)
		keep[row/8] |= 1 << (row % 8)
		one := native.NewColumn(c.DataType(), false)
		if err := one.AppendFromWire(c.AppendWire(nil), c.Rows(), keep); err != nil {
			return nil, fmt.Errorf("cut row %d out of column %s: %w", row, Quote(names[i]), err)
		}
		out[i] = proto.InputColumn{Name: names[i], Data: one}
	}
	return out, nil
}
