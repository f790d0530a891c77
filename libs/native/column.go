package native

import (
	"errors"
	"fmt"
	"strconv"

	"github.com/ClickHouse/ch-go/proto"

	"sluice/libs/jsonread"
)

// Column is the values of one column of a table. It only grows, until Truncate or Reset.
//
// It is a proto.ColInput: ch-go's client sends it as a column of a block as it is.
type Column struct {
	typ      *Type
	root     node
	n        int
	optional bool

	// present has a bit for each row, 0 = absent. Only kept for optional columns.
	present []byte
	absent  int

	// marks is root before the row marked was appended, the lengths to go back to.
	marks  []int
	marked int

	scratch []byte
}

var (
	_ proto.ColInput     = (*Column)(nil)
	_ proto.StateEncoder = (*Column)(nil)
	_ proto.Preparable   = (*Column)(nil)
)

// NewColumn makes an empty column. With optional (the table has a DEFAULT for it) a missing field,
// and null where the type cannot be NULL, make the row absent instead of an error.
func NewColumn(t *Type, optional bool) *Column {
	root, err := newNode(t)
	if err != nil {
		panic(fmt.Sprintf("native: column of a type that ParseType has let through: %v", err))
	}
	return &Column{typ: t, root: root, optional: optional, marked: -1}
}

// DataType is the column's type.
func (c *Column) DataType() *Type { return c.typ }

// Rows is the number of rows, absent ones included.
func (c *Column) Rows() int { return c.n }

// Absent is the number of absent rows.
func (c *Column) Absent() int { return c.absent }

// Size is about the number of bytes that AppendWire would append.
func (c *Column) Size() int {
	if c.optional {
		return 1 + len(c.present) + c.root.size()
	}
	return c.root.size()
}

// Reset empties the column and keeps its memory.
func (c *Column) Reset() {
	c.root.reset()
	c.n, c.absent, c.marked = 0, 0, -1
	c.present = c.present[:0]
}

// Truncate keeps the first rows rows. To take back the last one appended costs next to nothing.
func (c *Column) Truncate(rows int) {
	if rows < 0 || rows > c.n {
		panic(fmt.Sprintf("native: truncate %d rows to %d", c.n, rows))
	}
	switch rows {
	case c.n:
		return
	case c.marked:
		c.root.rollback(c.marks)
	default:
		c.root.truncate(rows)
	}
	c.marked = -1
	c.truncatePresence(rows)
}

func (c *Column) mark() {
	switch n := c.root.(type) { // the two that most columns are, without a call
	case *fixed:
		c.marks = append(c.marks[:0], len(n.buf))
	case *text:
		c.marks = append(c.marks[:0], len(n.buf), n.n)
	default:
		c.marks = n.mark(c.marks[:0])
	}
	c.marked = c.n
}

// AppendJSON appends a row. An error is a *ValueError, and the column is as it was.
func (c *Column) AppendJSON(v jsonread.Value) error {
	c.mark()
	present := true
	switch {
	case v.Kind <= jsonread.Null && c.optional && (v.Kind == jsonread.Missing || !c.typ.Nullable()):
		present = false
		c.root.appendDefault()
	default:
		if err := c.root.appendJSON(v); err != nil {
			c.root.rollback(c.marks)
			c.marked = -1
			return err
		}
	}
	if c.optional {
		c.appendPresence(present)
	}
	c.n++
	return nil
}

// AppendString appends a row from a text that is not JSON, as from a JSON string: bytes that a
// String column takes as they are.
func (c *Column) AppendString(b []byte) error {
	return c.AppendJSON(jsonread.Value{Kind: jsonread.String, Raw: b})
}

// AppendInt appends a row as from a JSON integer.
func (c *Column) AppendInt(v int64) error {
	c.scratch = strconv.AppendInt(c.scratch[:0], v, 10)
	return c.AppendJSON(jsonread.Value{Kind: jsonread.Number, Raw: c.scratch})
}

// AppendTime appends a row from milliseconds since 1970: as the moment to the types of time, as the
// UTC day to those of dates, as the number to all others.
func (c *Column) AppendTime(ms int64) error {
	switch c.typ.bare().kind {
	case kindDate, kindDate32:
		const msPerDay = 1000 * secondsPerDay
		days := ms / msPerDay
		if ms%msPerDay < 0 {
			days--
		}
		return c.AppendInt(days)
	case kindDateTime, kindDateTime64:
		c.scratch = appendSeconds(c.scratch[:0], ms)
		return c.AppendJSON(jsonread.Value{Kind: jsonread.Number, Raw: c.scratch})
	}
	return c.AppendInt(ms)
}

// appendSeconds appends ms as seconds with three decimals.
func appendSeconds(dst []byte, ms int64) []byte {
	magnitude := uint64(ms)
	if ms < 0 {
		dst = append(dst, '-')
		magnitude = -magnitude
	}
	dst = strconv.AppendUint(dst, magnitude/1000, 10)
	frac := magnitude % 1000
	return append(dst, '.', '0'+byte(frac/100), '0'+byte(frac/10%10), '0'+byte(frac%10))
}

// AppendNull appends a row as from a JSON null.
func (c *Column) AppendNull() error { return c.AppendJSON(jsonread.Value{Kind: jsonread.Null}) }

// AppendMissing appends a row as from a field that the document does not have.
func (c *Column) AppendMissing() error { return c.AppendJSON(jsonread.Value{}) }

// Type is the type's full name. It belongs to proto.ColInput.
func (c *Column) Type() proto.ColumnType { return proto.ColumnType(c.typ.name) }

// ErrAbsent tells that a column with absent rows was to be written as a block's column.
var ErrAbsent = errors.New("column has absent rows, only ClickHouse knows their values")

// Prepare must be called before a block is written; ch-go does. It belongs to proto.Preparable.
func (c *Column) Prepare() error {
	if c.absent > 0 {
		return ErrAbsent
	}
	return c.root.prepare()
}

// EncodeState writes what Native has before the data. It belongs to proto.StateEncoder.
func (c *Column) EncodeState(b *proto.Buffer) { c.root.state(&encoder{buffer: b}) }

// EncodeColumn writes the data into b. It belongs to proto.ColInput.
func (c *Column) EncodeColumn(b *proto.Buffer) { c.root.encode(&encoder{buffer: b}) }

// WriteColumn hands the data to w, which keeps parts of the column's memory until it is flushed.
// It belongs to proto.ColInput.
func (c *Column) WriteColumn(w *proto.Writer) { c.root.encode(&encoder{writer: w}) }
