package native

import (
	"sluice/libs/jsonread"
)

// tuple holds a column for each element.
type tuple struct {
	elems []node
	names []string // nil when the elements have none
}

func newTuple(t *Type) (*tuple, error) {
	n := &tuple{names: t.names}
	for _, elem := range t.elems {
		c, err := newNode(elem)
		if err != nil {
			return nil, err
		}
		n.elems = append(n.elems, c)
	}
	return n, nil
}

func (n *tuple) rows() int { return n.elems[0].rows() }
func (n *tuple) size() int {
	sum := 0
	for _, c := range n.elems {
		sum += c.size()
	}
	return sum
}
func (n *tuple) reset() {
	for _, c := range n.elems {
		c.reset()
	}
}

func (n *tuple) mark(m []int) []int {
	for _, c := range n.elems {
		m = c.mark(m)
	}
	return m
}
func (n *tuple) rollback(m []int) []int {
	for _, c := range n.elems {
		m = c.rollback(m)
	}
	return m
}
func (n *tuple) truncate(rows int) {
	for _, c := range n.elems {
		c.truncate(rows)
	}
}

func (n *tuple) appendJSON(v jsonread.Value) error {
	switch {
	case v.Kind <= jsonread.Null:
		return errEmpty(v)
	case v.Kind == jsonread.Array:
		return n.appendArray(v)
	case v.Kind == jsonread.Object && n.names != nil:
		return n.appendObject(v)
	case n.names != nil:
		return valueErrorf("%s is not an object, as a Tuple with names wants", show(v))
	}
	return valueErrorf("%s is not an array, as a Tuple without names wants", show(v))
}

func (n *tuple) appendArray(v jsonread.Value) error {
	i := 0
	err := jsonread.Elements(v.Raw, func(v jsonread.Value) error {
		if i++; i > len(n.elems) {
			return nil
		}
		if err := n.elems[i-1].appendJSON(v); err != nil {
			return within(err, "element %d", i)
		}
		return nil
	})
	if err != nil {
		return asValueError(v, err)
	}
	if i != len(n.elems) {
		return valueErrorf("%s has %d elements, the Tuple has %d", show(v), i, len(n.elems))
	}
	return nil
}

// appendObject takes the fields by name, in any order. A Nullable element may be missing.
func (n *tuple) appendObject(v jsonread.Value) error {
	// The number of rows tells which elements have been set: no scratch, and nesting needs no stack.
	before := n.elems[0].rows()
	err := jsonread.Fields(v.Raw, func(key []byte, v jsonread.Value) error {
		for i, name := range n.names {
			if string(key) != name {
				continue
			}
			if n.elems[i].rows() != before {
				return valueErrorf("field %q occurs twice", shorten(key))
			}
			if err := n.elems[i].appendJSON(v); err != nil {
				return within(err, "field %q", shorten(key))
			}
			break
		}
		return nil
	})
	if err != nil {
		return asValueError(v, err)
	}
	for i, c := range n.elems {
		if c.rows() != before {
			continue
		}
		if err := c.appendJSON(jsonread.Value{}); err != nil {
			return within(err, "field %q", n.names[i])
		}
	}
	return nil
}

func (n *tuple) appendDefault() {
	for _, c := range n.elems {
		c.appendDefault()
	}
}

func (n *tuple) appendWire(dst []byte) []byte {
	for _, c := range n.elems {
		dst = c.appendWire(dst)
	}
	return dst
}

func (n *tuple) readWire(src []byte, rows int, keep []byte) ([]byte, error) {
	for _, c := range n.elems {
		var err error
		if src, err = c.readWire(src, rows, keep); err != nil {
			return nil, err
		}
	}
	return src, nil
}

func (n *tuple) prepare() error {
	for _, c := range n.elems {
		if err := c.prepare(); err != nil {
			return err
		}
	}
	return nil
}

func (n *tuple) state(e *encoder) {
	for _, c := range n.elems {
		c.state(e)
	}
}

func (n *tuple) encode(e *encoder) {
	for _, c := range n.elems {
		c.encode(e)
	}
}
