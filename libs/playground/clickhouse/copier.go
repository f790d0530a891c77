package clickhouse

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"slices"
)

// copier moves a Native block from one place to another, byte for byte, and finds out where it ends.
type copier struct {
	src     *bufio.Reader
	dst     []byte
	columns []column // of the block, in order
	depth   int      // of types that are named within the data of others

	layouts     map[string]layout // by column type, made once
	layoutBytes int               // of the types' names
}

// framing is what the protocol's revision puts around the columns of a block. A file has none of it.
type framing struct {
	info   bool // block info before the block
	custom bool // a byte after each column's type: 1 = another serialization than the type's own
}

// blockHead is what a copied block says about itself.
type blockHead struct {
	columns, rows int
	start         int // of the block in dst
}

// noInfo is block info that says nothing: no overflows, bucket -1.
const noInfo = "\x01\x00\x02\xff\xff\xff\xff\x00"

const (
	maxColumns = 1 << 16
	maxRows    = 1 << 31
	maxLayouts = 4 << 20 // bytes of types whose layouts are kept
	readStep   = 1 << 20 // memory is taken as data comes, not as a length promises
)

func count(n uint64) (int, error) {
	if n > maxRows {
		return 0, fmt.Errorf("%d rows in one block", n)
	}
	return int(n), nil
}

// block copies one block to the end of dst. io.EOF means that there is none.
func (c *copier) block(in, out framing) (blockHead, error) {
	h := blockHead{start: len(c.dst)}
	if _, err := c.src.Peek(1); err != nil {
		return h, err
	}
	err := c.framed(&h, in, out)
	if errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	return h, err
}

func (c *copier) framed(h *blockHead, in, out framing) error {
	if in.info {
		if err := c.skipInfo(); err != nil {
			return err
		}
	}
	if out.info {
		c.dst = append(c.dst, noInfo...)
	}
	columns, err := c.uvarint()
	if err != nil {
		return err
	}
	if columns > maxColumns {
		return fmt.Errorf("%d columns in one block", columns)
	}
	rows, err := c.uvarint()
	if err != nil {
		return err
	}
	h.columns = int(columns)
	if h.rows, err = count(rows); err != nil {
		return err
	}
	c.columns = c.columns[:0]
	for range h.columns {
		if err := c.column(h.rows, in, out); err != nil {
			return err
		}
	}
	return nil
}

func (c *copier) column(rows int, in, out framing) error {
	name, err := c.string()
	if err != nil {
		return err
	}
	typ, err := c.string()
	if err != nil {
		return err
	}
	c.columns = append(c.columns, column{name, typ})
	if in.custom {
		b, err := c.src.ReadByte()
		if err != nil {
			return err
		}
		if b != 0 {
			return fmt.Errorf("column %q: custom serialization cannot pass through this server", name)
		}
	}
	if out.custom {
		c.dst = append(c.dst, 0)
	}
	if rows == 0 {
		return nil
	}
	l, ok := c.layouts[typ]
	if !ok {
		if l, err = newLayout(typ); err != nil {
			return fmt.Errorf("column %q: %w", name, err)
		}
		if c.layoutBytes += len(typ); c.layouts == nil || c.layoutBytes > maxLayouts {
			c.layouts, c.layoutBytes = map[string]layout{}, len(typ)
		}
		c.layouts[typ] = l
	}
	if err := l.prefix(c); err != nil {
		return fmt.Errorf("column %q: %w", name, err)
	}
	if err := l.data(c, rows); err != nil {
		return fmt.Errorf("column %q: %w", name, err)
	}
	return nil
}

func (c *copier) skipInfo() error {
	for {
		field, err := binary.ReadUvarint(c.src)
		if err != nil {
			return err
		}
		var size int
		switch field {
		case 0:
			return nil
		case 1:
			size = 1
		case 2:
			size = 4
		default:
			return fmt.Errorf("block info: field %d is not known", field)
		}
		if _, err := c.src.Discard(size); err != nil {
			return err
		}
	}
}

// bytes copies n values of the given size.
func (c *copier) bytes(n, size int) error {
	for left := n * size; left > 0; {
		step := min(left, readStep)
		at := len(c.dst)
		c.dst = slices.Grow(c.dst, step)[:at+step]
		if _, err := io.ReadFull(c.src, c.dst[at:]); err != nil {
			return err
		}
		left -= step
	}
	return nil
}

func (c *copier) uint64() (uint64, error) {
	if err := c.bytes(1, 8); err != nil {
		return 0, err
	}
	return binary.LittleEndian.Uint64(c.dst[len(c.dst)-8:]), nil
}

func (c *copier) count() (int, error) {
	n, err := c.uint64()
	if err != nil {
		return 0, err
	}
	return count(n)
}

func (c *copier) uvarint() (uint64, error) {
	n, err := binary.ReadUvarint(c.src)
	if err != nil {
		return 0, err
	}
	c.dst = binary.AppendUvarint(c.dst, n)
	return n, nil
}

// string copies a string and returns it.
func (c *copier) string() (string, error) {
	n, err := c.uvarint()
	if err != nil {
		return "", err
	}
	if n > readStep {
		return "", fmt.Errorf("a name of %d bytes", n)
	}
	if err := c.bytes(int(n), 1); err != nil {
		return "", err
	}
	return string(c.dst[len(c.dst)-int(n):]), nil
}

// names copies a list of strings that begins with how many there are.
func (c *copier) names() ([]string, error) {
	n, err := c.uvarint()
	if err != nil {
		return nil, err
	}
	if n > maxColumns {
		return nil, fmt.Errorf("%d names in one column", n)
	}
	var out []string
	for range n {
		name, err := c.string()
		if err != nil {
			return nil, err
		}
		out = append(out, name)
	}
	return out, nil
}

// strings copies strings. It finds the ends of those that lie in the reader's buffer and copies them at once.
func (c *copier) strings(rows int) error {
	for rows > 0 {
		ready, _ := c.src.Peek(c.src.Buffered())
		at := 0
		for rows > 0 {
			n, k := binary.Uvarint(ready[at:])
			if k <= 0 || n > uint64(len(ready)-at-k) {
				break
			}
			at += k + int(n)
			rows--
		}
		c.dst = append(c.dst, ready[:at]...)
		if _, err := c.src.Discard(at); err != nil {
			return err
		}
		if rows == 0 {
			return nil
		}
		n, err := c.uvarint() // one that goes beyond the buffer
		if err != nil {
			return err
		}
		size, err := count(n)
		if err != nil {
			return err
		}
		if err := c.bytes(size, 1); err != nil {
			return err
		}
		rows--
	}
	return nil
}
