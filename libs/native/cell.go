package native

import "fmt"

// Cells cuts the rows of a column in wire form out one by one. A cell is what AppendWire writes for a column that has
// this one row, so that AppendCell takes it back; cells of several columns may follow each other without a
// separator. The cutting copies bytes and converts nothing.
type Cells struct {
	name     string
	optional bool
	root     part
	mask     []byte // presence of the rows; nil when all are present
	row      int
}

// NewCells makes the cutter of columns of that type and optionality: see NewColumn.
func NewCells(t *Type, optional bool) *Cells {
	return &Cells{name: t.name, optional: optional, root: newPart(t)}
}

// Open begins a column of rows rows. src must stay as it is until the last row is cut. All checks are made here.
func (c *Cells) Open(src []byte, rows int) error {
	if rows < 0 || rows > len(src) {
		return fmt.Errorf("cells of %s: %d rows in %d bytes", c.name, rows, len(src))
	}
	c.mask, c.row = nil, 0
	if c.optional {
		var err error
		if c.mask, src, err = splitPresence(src, rows); err != nil {
			return fmt.Errorf("cells of %s: %w", c.name, err)
		}
	}
	rest, err := c.root.open(src, rows)
	if err == nil && len(rest) > 0 {
		err = fmt.Errorf("%d bytes are left over", len(rest))
	}
	if err != nil {
		return fmt.Errorf("cells of %s: %w", c.name, err)
	}
	return nil
}

// Cut appends the cell of the next row to dst. There must be one.
func (c *Cells) Cut(dst []byte) []byte {
	if c.optional {
		if c.mask == nil || bit(c.mask, c.row) {
			dst = append(dst, allPresent)
		} else {
			dst = append(dst, somePresent, 0)
		}
	}
	c.row++
	return c.root.cut(dst, 1)
}

// Skip passes the next row over.
func (c *Cells) Skip() {
	c.row++
	c.root.skip(1)
}

// AppendCell appends the row whose cell src begins with, and returns what follows the cell. After an error the column
// is as it was.
func (c *Column) AppendCell(src []byte) (rest []byte, err error) {
	if !c.optional { // the two that most columns are, without a mark: nothing is appended before it is known to be right
		switch n := c.root.(type) {
		case *fixed:
			if len(src) < n.width {
				return nil, fmt.Errorf("cell of %s: %w", c.typ.name, errCutWire)
			}
			n.buf = append(n.buf, src[:n.width]...)
			c.n, c.marked = c.n+1, -1
			return src[n.width:], nil
		case *text:
			end, err := skipStrings(src, 1)
			if err != nil {
				return nil, fmt.Errorf("cell of %s: %w", c.typ.name, err)
			}
			n.buf, n.n = append(n.buf, src[:end]...), n.n+1
			c.n, c.marked = c.n+1, -1
			return src[end:], nil
		}
	}
	c.mark()
	values, present := src, true
	if c.optional {
		var mask []byte
		if mask, values, err = splitPresence(src, 1); err != nil {
			return nil, fmt.Errorf("cell of %s: %w", c.typ.name, err)
		}
		present = mask == nil || mask[0] != 0
	}
	if rest, err = c.root.readWire(values, 1, nil); err != nil {
		c.root.rollback(c.marks)
		c.marked = -1
		return nil, fmt.Errorf("cell of %s: %w", c.typ.name, err)
	}
	if c.optional {
		c.appendPresence(present)
	}
	c.n++
	return rest, nil
}

// AppendZero appends a row of the value that ClickHouse's LEFT JOIN has for a row that it did not find: NULL where the type has one, else 0 (1970-01-01 of a
// Date32), the empty text and so on, whatever default the table has.
func (c *Column) AppendZero() {
	c.mark()
	c.root.appendDefault()
	if c.optional {
		c.appendPresence(true)
	}
	c.n++
}
