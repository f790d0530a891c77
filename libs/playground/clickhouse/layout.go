package clickhouse

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strings"
)

// layout knows how a column of one type lies in a Native block, so that the end of the column can be found. It copies
// bytes and understands only those that say how many follow. A layout is used for one column at a time.
//
// A column is the prefixes of the whole type, then its data (ClickHouse: serializeBinaryBulkStatePrefix and
// serializeBinaryBulkWithMultipleStreams).
type layout interface {
	prefix(c *copier) error
	data(c *copier, rows int) error
}

type fixed int

func (fixed) prefix(*copier) error             { return nil }
func (f fixed) data(c *copier, rows int) error { return c.bytes(rows, int(f)) }

type text struct{}

func (text) prefix(*copier) error           { return nil }
func (text) data(c *copier, rows int) error { return c.strings(rows) }

type nullable struct{ of layout }

func (n nullable) prefix(c *copier) error { return n.of.prefix(c) }
func (n nullable) data(c *copier, rows int) error {
	if err := c.bytes(rows, 1); err != nil {
		return err
	}
	return n.of.data(c, rows)
}

type array struct{ of layout }

func (a array) prefix(c *copier) error { return a.of.prefix(c) }
func (a array) data(c *copier, rows int) error {
	total := uint64(0)
	if rows > 0 {
		if err := c.bytes(rows, 8); err != nil {
			return err
		}
		total = binary.LittleEndian.Uint64(c.dst[len(c.dst)-8:])
	}
	n, err := count(total)
	if err != nil {
		return err
	}
	return a.of.data(c, n)
}

type tuple []layout

func (t tuple) prefix(c *copier) error {
	for _, e := range t {
		if err := e.prefix(c); err != nil {
			return err
		}
	}
	return nil
}

func (t tuple) data(c *copier, rows int) error {
	if len(t) == 0 {
		return c.bytes(rows, 1) // Tuple() is a byte a row
	}
	for _, e := range t {
		if err := e.data(c, rows); err != nil {
			return err
		}
	}
	return nil
}

type lowCardinality struct{ dict layout }

func (l lowCardinality) prefix(c *copier) error {
	version, err := c.uint64()
	if err == nil && version != 1 {
		err = fmt.Errorf("LowCardinality: key version %d is not known", version)
	}
	return err
}

func (l lowCardinality) data(c *copier, rows int) error {
	const (
		globalDictionary = 1 << 8
		additionalKeys   = 1 << 9
	)
	for rows > 0 {
		head, err := c.uint64()
		if err != nil {
			return err
		}
		if head&0xff > 3 {
			return fmt.Errorf("LowCardinality: index type %d is not known", head&0xff)
		}
		for _, flag := range []uint64{globalDictionary, additionalKeys} {
			if head&flag == 0 {
				continue
			}
			keys, err := c.count()
			if err != nil {
				return err
			}
			if err := l.dict.data(c, keys); err != nil {
				return err
			}
		}
		n, err := c.count()
		if err != nil {
			return err
		}
		if n == 0 || n > rows {
			return fmt.Errorf("LowCardinality: %d indexes for %d rows", n, rows)
		}
		if err := c.bytes(n, 1<<(head&0xff)); err != nil {
			return err
		}
		rows -= n
	}
	return nil
}

// variant holds the layouts in the order of the types' names, which is the order of the discriminators.
type variant struct{ of []layout }

func (v *variant) prefix(c *copier) error {
	mode, err := c.uint64()
	if err != nil {
		return err
	}
	if mode != 0 {
		return fmt.Errorf("Variant: discriminators mode %d is not known", mode)
	}
	return tuple(v.of).prefix(c)
}

func (v *variant) data(c *copier, rows int) error {
	at := len(c.dst)
	if err := c.bytes(rows, 1); err != nil {
		return err
	}
	return eachByIndex(c, v.of, c.dst[at:])
}

// eachByIndex copies one column for each type, with as many rows as the type's number occurs in the index; another
// number is NULL.
func eachByIndex(c *copier, of []layout, index []byte) error {
	var rows [256]int
	for _, d := range index {
		rows[d]++
	}
	for i, l := range of {
		if err := l.data(c, rows[i]); err != nil {
			return err
		}
	}
	return nil
}

// dynamic is a Variant whose types are named in the column itself.
type dynamic struct {
	of   *variant
	flat []layout // instead of of: the flattened form
}

const sharedVariant = "SharedVariant" // values of types beyond the limit, as binary strings

func (d *dynamic) prefix(c *copier) error {
	if c.depth == maxDepth {
		return errTooDeep
	}
	c.depth++
	defer func() { c.depth-- }()
	version, err := c.uint64()
	if err != nil {
		return err
	}
	switch version {
	case 1: // V1 also tells the limit of types
		if _, err := c.uvarint(); err != nil {
			return err
		}
	case 2, 3:
	default:
		return fmt.Errorf("Dynamic: serialization version %d is not known", version)
	}
	types, err := c.names()
	if err != nil {
		return err
	}
	if len(types) > 254 {
		return fmt.Errorf("Dynamic: %d types in one column", len(types))
	}
	flat := version == 3
	if !flat {
		types = append(types, sharedVariant)
		slices.Sort(types)
	}
	of := make([]layout, len(types))
	for i, t := range types {
		if t == sharedVariant {
			of[i] = text{}
		} else if of[i], err = newLayout(t); err != nil {
			return err
		}
	}
	d.of, d.flat = &variant{of: of}, nil
	if flat {
		d.of, d.flat = nil, of
		return tuple(of).prefix(c)
	}
	return d.of.prefix(c)
}

func (d *dynamic) data(c *copier, rows int) error {
	if d.of != nil {
		return d.of.data(c, rows)
	}
	at := len(c.dst)
	if err := c.bytes(rows, 1); err != nil { // at most 254 types: the index is one byte
		return err
	}
	return eachByIndex(c, d.flat, c.dst[at:])
}

// jsonLayout is a JSON column: the paths with a declared type, then those found in the data.
type jsonLayout struct {
	typed  []layout // in the order of the paths' names
	paths  []string // of typed
	asText bool
	flat   bool
	found  []*dynamic
}

func newJSONLayout(args []string, levels int) (*jsonLayout, error) {
	j := &jsonLayout{}
	types := map[string]string{}
	for _, a := range args {
		path, typ := elementType(a)
		if path == "" || strings.EqualFold(path, "SKIP") || strings.Contains(path, "=") || strings.HasPrefix(typ, "=") {
			continue
		}
		types[path] = typ
		j.paths = append(j.paths, path)
	}
	slices.Sort(j.paths)
	for _, p := range j.paths {
		l, err := layoutWithin(types[p], levels)
		if err != nil {
			return nil, err
		}
		j.typed = append(j.typed, l)
	}
	return j, nil
}

func (j *jsonLayout) prefix(c *copier) error {
	version, err := c.uint64()
	if err != nil {
		return err
	}
	j.asText, j.flat, j.found = version == 1, version == 3, nil
	switch version {
	case 1:
		return nil
	case 0: // V1 also tells the limit of paths
		if _, err := c.uvarint(); err != nil {
			return err
		}
	case 2, 3:
	default:
		return fmt.Errorf("JSON: serialization version %d is not known", version)
	}
	paths, err := c.names()
	if err != nil {
		return err
	}
	if j.flat { // typed and found paths in one list
		return errors.New("JSON: the flattened form cannot pass through this server")
	}
	if err := tuple(j.typed).prefix(c); err != nil {
		return err
	}
	for range paths {
		d := &dynamic{}
		if err := d.prefix(c); err != nil {
			return err
		}
		j.found = append(j.found, d)
	}
	return nil
}

func (j *jsonLayout) data(c *copier, rows int) error {
	if j.asText {
		return c.strings(rows)
	}
	for _, l := range j.typed {
		if err := l.data(c, rows); err != nil {
			return err
		}
	}
	for _, d := range j.found {
		if err := d.data(c, rows); err != nil {
			return err
		}
	}
	return array{tuple{text{}, text{}}}.data(c, rows) // paths beyond the limit, as binary strings
}
