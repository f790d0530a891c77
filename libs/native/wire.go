package native

import (
	"errors"
	"fmt"
)

// The wire form of a column is its parts in the order of Native, without Native's states. Optional
// columns begin with a byte: 0 = all rows are present, 1 = a bitmap follows, 1 = present. The values
// of absent rows are there, as defaults.
const (
	allPresent  = 0
	somePresent = 1
)

// AppendWire appends the column as it travels in a batch.
func (c *Column) AppendWire(dst []byte) []byte {
	if c.optional {
		if c.absent == 0 {
			dst = append(dst, allPresent)
		} else {
			dst = append(append(dst, somePresent), c.present...)
		}
	}
	return c.root.appendWire(dst)
}

// AppendFromWire appends rows of src, exactly one column of rows rows that AppendWire has written for
// a column of the same type and optionality. keep has a bit per row, lowest first, nil = all rows.
// After an error the column is as it was.
func (c *Column) AppendFromWire(src []byte, rows int, keep []byte) error {
	if rows < 0 || rows > len(src) {
		return fmt.Errorf("column of %s: %d rows in %d bytes", c.typ.name, rows, len(src))
	}
	if keep != nil && len(keep) < (rows+7)/8 {
		return fmt.Errorf("column of %s: selection has %d bytes for %d rows", c.typ.name, len(keep), rows)
	}
	var mask []byte
	values := src
	if c.optional {
		var err error
		if mask, values, err = splitPresence(src, rows); err != nil {
			return fmt.Errorf("column of %s: %w", c.typ.name, err)
		}
	}
	c.mark()
	rest, err := c.root.readWire(values, rows, keep)
	if err == nil && len(rest) > 0 {
		err = fmt.Errorf("%d bytes are left over", len(rest))
	}
	if err != nil {
		c.root.rollback(c.marks)
		c.marked = -1
		return fmt.Errorf("column of %s: %w", c.typ.name, err)
	}
	count := kept(keep, rows)
	if c.optional {
		c.appendPresences(mask, rows, keep, count)
	}
	c.n += count
	return nil
}

// PresenceFromWire reads which of the rows of an optional column are present, without its values.
// mask has a bit per row, lowest first; it is nil when all is true. It shares src's memory.
func PresenceFromWire(src []byte, rows int) (all bool, mask []byte, err error) {
	if rows < 0 || rows > len(src) {
		return false, nil, fmt.Errorf("optional column: %d rows in %d bytes", rows, len(src))
	}
	mask, _, err = splitPresence(src, rows)
	return err == nil && mask == nil, mask, err
}

func splitPresence(src []byte, rows int) (mask, values []byte, err error) {
	if len(src) == 0 {
		return nil, nil, fmt.Errorf("%w: the presence is missing", errCutWire)
	}
	switch src[0] {
	case allPresent:
		return nil, src[1:], nil
	case somePresent:
		size := (rows + 7) / 8
		if len(src)-1 < size {
			return nil, nil, errTooShort("the presence", size, len(src)-1)
		}
		mask, values = src[1:1+size:1+size], src[1+size:]
		if rows&7 != 0 && mask[size-1]>>(rows&7) != 0 {
			return nil, nil, errors.New("presence has bits behind the last row")
		}
		return mask, values, nil
	}
	return nil, nil, fmt.Errorf("presence has an unknown form %d", src[0])
}

// appendPresence appends the bit of the row c.n.
func (c *Column) appendPresence(present bool) {
	if c.n&7 == 0 {
		c.present = append(c.present, 0)
	}
	if present {
		c.present[c.n>>3] |= 1 << (c.n & 7)
	} else {
		c.absent++
	}
}

// appendPresences appends the kept ones of rows bits of mask, count in number; nil means all present.
func (c *Column) appendPresences(mask []byte, rows int, keep []byte, count int) {
	first := c.n
	for len(c.present) < (first+count+7)/8 {
		c.present = append(c.present, 0)
	}
	if mask == nil {
		setBits(c.present, first, first+count)
		return
	}
	at := first
	for r := (runs{keep: keep, rows: rows}); ; {
		from, to := r.next()
		if from >= rows {
			break
		}
		for row := from; row < to; row++ {
			if bit(mask, row) {
				c.present[at>>3] |= 1 << (at & 7)
			} else {
				c.absent++
			}
			at++
		}
	}
}

// truncatePresence keeps the bits of the first rows rows, and makes rows the column's number of rows.
func (c *Column) truncatePresence(rows int) {
	c.n = rows
	if !c.optional {
		return
	}
	c.present = c.present[:(rows+7)/8]
	if rows&7 != 0 {
		c.present[rows>>3] &= 1<<(rows&7) - 1
	}
	c.absent = rows - kept(c.present, rows)
}
