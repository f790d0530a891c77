package join

import (
	"errors"
	"fmt"
	"strings"

	controlv1 "sluice/gen/sluice/control/v1"
	"sluice/libs/native"
	"sluice/services/join/internal/state"
)

// mapping says where the cells of a side's rows go.
type mapping struct {
	cells   []target
	missing []*native.Column // columns of the side that the rows do not have
}

// target is where a cell goes.
type target struct {
	name     string
	column   *native.Column // nil: to nowhere, the column is no more
	optional bool           // the column, was: the cell
	was      bool
	// from is the type of a cell that is of another than the column; nil: of the same.
	from *native.Type
	// scrap takes what is not wanted of a cell.
	scrap *native.Column
}

// unfit says that a value which a row was read with is none of its column's type any more.
type unfit struct {
	column   string
	from, to *native.Type
	reason   *native.ValueError
}

func (e *unfit) Error() string {
	return fmt.Sprintf("column %s was %s when the row was read and is %s now: %v", e.column, short(e.from), short(e.to), e.reason)
}

// short is a type's name without most of an Enum's.
func short(t *native.Type) string {
	const most = 40
	if name := t.String(); len(name) > most {
		return strings.ToValidUTF8(name[:most], "") + "…"
	}
	return t.String()
}

// mapping returns where the cells of a side's rows of one revision go in another.
func (l *layouts) mapping(side state.Side, from uint64, to *output) (*mapping, error) {
	key := mapKey{side, from, to.revision}
	if m := l.maps[key]; m != nil {
		return m, nil
	}
	in, err := l.input(side, from)
	if err != nil {
		return nil, err
	}
	m := &mapping{}
	filled := map[int]bool{}
	for _, c := range in.columns {
		t := target{name: c.GetName(), was: optional(c)}
		if t.scrap, err = newColumn(c); err != nil {
			return nil, err
		}
		if at, ok := to.names[c.GetName()]; ok {
			if o := to.schema.GetColumns()[at]; o.GetSource() == c.GetSource() {
				t.column, t.optional = to.columns[at], optional(o)
				if o.GetType() != c.GetType() {
					t.from = t.scrap.DataType()
				}
				filled[at] = true
			}
		}
		m.cells = append(m.cells, t)
	}
	for i, o := range to.schema.GetColumns() {
		if l.belongs(o, side) && !filled[i] {
			m.missing = append(m.missing, to.columns[i])
		}
	}
	l.maps[key] = m
	return m, nil
}

// belongs tells which side a column is filled by; the left one fills those of neither.
func (l *layouts) belongs(c *controlv1.SchemaColumn, side state.Side) bool {
	return (c.GetSource() == l.sources[state.Right]) == (side == state.Right)
}

// absent is the columns of a side that has no row.
func (l *layouts) absent(side state.Side, to *output) []*native.Column {
	key := mapKey{side, 0, to.revision}
	m := l.maps[key]
	if m == nil {
		m = &mapping{}
		for i, o := range to.schema.GetColumns() {
			if l.belongs(o, side) {
				m.missing = append(m.missing, to.columns[i])
			}
		}
		l.maps[key] = m
	}
	return m.missing
}

// append appends a row. After an error, which may be an *unfit, some of its columns are longer than others.
func (m *mapping) append(cells []byte) (err error) {
	for i := range m.cells {
		if cells, err = m.cells[i].append(cells); err != nil {
			return err
		}
	}
	if len(cells) > 0 {
		return fmt.Errorf("%d bytes follow the last cell of a row", len(cells))
	}
	return appendMissing(m.missing)
}

// append appends the cell that cells begin with, and returns what follows it.
func (t *target) append(cells []byte) (rest []byte, err error) {
	same := t.from == nil && t.was == t.optional
	absent := t.was && len(cells) > 2 && cells[0] == 1 && cells[1] == 0
	switch {
	case t.column == nil || absent && !same: // the default value behind what is absent is for nobody
		rest, err = t.scrap.AppendCell(cells)
		t.scrap.Reset()
		if err == nil && t.column != nil {
			err = appendMissing([]*native.Column{t.column})
		}
		return rest, err
	case same:
		return t.column.AppendCell(cells)
	case t.was:
		if len(cells) == 0 {
			return nil, errors.New("a row is cut off")
		}
		cells = cells[1:]
	}
	switch {
	case t.from != nil:
		rest, err = t.column.AppendConverted(cells, t.from)
		var reason *native.ValueError
		if errors.As(err, &reason) {
			err = &unfit{t.name, t.from, t.column.DataType(), reason}
		}
		return rest, err
	case t.optional:
		var scratch [64]byte
		whole := append(append(scratch[:0], 0), cells...)
		if whole, err = t.column.AppendCell(whole); err != nil {
			return nil, err
		}
		return cells[len(cells)-len(whole):], nil
	}
	return t.column.AppendCell(cells)
}

// appendMissing appends what a missing field makes of a column; where a field must not be missing, the type's zero value.
func appendMissing(columns []*native.Column) error {
	for _, c := range columns {
		if err := c.AppendMissing(); err != nil {
			c.AppendZero()
		}
	}
	return nil
}
