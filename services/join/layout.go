package join

import (
	"fmt"

	controlv1 "sluice/gen/sluice/control/v1"
	"sluice/libs/batch"
	"sluice/libs/native"
	"sluice/libs/spec"
	"sluice/services/join/internal/state"
)

// layouts knows the columns of the pipeline's schema revisions: those of each side as they come, and all of them as they go.
type layouts struct {
	schemas map[uint64]*controlv1.Schema
	sources [2]string
	in      map[inKey]*input
	out     map[uint64]*output
	maps    map[mapKey]*mapping
	chosen  map[[2]uint64]uint64
}

type inKey struct {
	side     state.Side
	revision uint64
}

type mapKey struct {
	side     state.Side
	from, to uint64
}

// input cuts the rows of a side's batches out.
type input struct {
	columns []*controlv1.SchemaColumn
	cells   []*native.Cells
}

// output is the columns of one revision.
type output struct {
	revision uint64
	columns  []*native.Column
	names    map[string]int
	schema   *controlv1.Schema
}

// mapping says where the cells of a side's rows go.
type mapping struct {
	cells   []target
	missing []*native.Column // columns of the side that the rows do not have
}

// target is where a cell goes. A cell whose column is not there, or of another type, is read into a column that is thrown away.
type target struct {
	column *native.Column
	how    how
}

type how uint8

const (
	asItIs how = iota
	addPresence
	dropPresence // the table's DEFAULT was taken away: an absent value becomes what a missing field would
	drop
)

func newLayouts(record *controlv1.PipelineRecord) *layouts {
	join := record.GetSpec().GetJoin()
	l := &layouts{
		schemas: map[uint64]*controlv1.Schema{}, sources: [2]string{join.GetLeft(), join.GetRight()},
		in: map[inKey]*input{}, out: map[uint64]*output{}, maps: map[mapKey]*mapping{}, chosen: map[[2]uint64]uint64{},
	}
	for _, s := range record.GetSchemas() {
		l.schemas[s.GetRevision()] = s
	}
	return l
}

func (l *layouts) schema(revision uint64) (*controlv1.Schema, error) {
	if s := l.schemas[revision]; s != nil {
		return s, nil
	}
	return nil, fmt.Errorf("it is of schema revision %d, which the pipeline does not have (yet)", revision)
}

// input returns what cuts batches of a side and revision.
func (l *layouts) input(side state.Side, revision uint64) (*input, error) {
	key := inKey{side, revision}
	if in := l.in[key]; in != nil {
		return in, nil
	}
	s, err := l.schema(revision)
	if err != nil {
		return nil, err
	}
	in := &input{columns: spec.Columns(s, l.sources[side])}
	for _, c := range in.columns {
		t, err := native.ParseType(c.GetType())
		if err != nil {
			return nil, fmt.Errorf("schema revision %d, column %s: %w", revision, c.GetName(), err)
		}
		in.cells = append(in.cells, native.NewCells(t, optional(c)))
	}
	l.in[key] = in
	return in, nil
}

func optional(c *controlv1.SchemaColumn) bool { return c.GetDefaultExpression() != "" }

// open begins a batch. All that may be wrong with its columns shows here.
func (in *input) open(raw []byte, rows int) error {
	for i, cells := range in.cells {
		var wire []byte
		var err error
		if wire, raw, err = batch.NextColumn(raw); err != nil {
			return err
		}
		if err := cells.Open(wire, rows); err != nil {
			return fmt.Errorf("column %s: %w", in.columns[i].GetName(), err)
		}
	}
	if len(raw) != 0 {
		return fmt.Errorf("%d bytes follow the last column", len(raw))
	}
	return nil
}

// cut appends the cells of the next row.
func (in *input) cut(dst []byte) []byte {
	for _, cells := range in.cells {
		dst = cells.Cut(dst)
	}
	return dst
}

func (in *input) skip() {
	for _, cells := range in.cells {
		cells.Skip()
	}
}

// revision chooses the one that a pair is laid out by: the newer, unless only the older can hold the values of both.
func (l *layouts) revision(left, right uint64) (uint64, error) {
	if left == right {
		return left, nil
	}
	key := [2]uint64{left, right}
	if r, ok := l.chosen[key]; ok {
		return r, nil
	}
	newer, older := max(left, right), min(left, right)
	out := newer
	for _, candidate := range []uint64{newer, older} {
		ok, err := l.holds(candidate, left, right)
		if err != nil {
			return 0, err
		}
		if ok {
			out = candidate
			break
		}
	}
	l.chosen[key] = out
	return out, nil
}

// holds tells whether every column that a revision has in common with the rows' own has the type of theirs.
func (l *layouts) holds(to, left, right uint64) (bool, error) {
	schema, err := l.schema(to)
	if err != nil {
		return false, err
	}
	for side, from := range []uint64{left, right} {
		in, err := l.input(state.Side(side), from)
		if err != nil {
			return false, err
		}
		for _, c := range in.columns {
			for _, o := range schema.GetColumns() {
				if o.GetName() == c.GetName() && o.GetSource() == c.GetSource() && o.GetType() != c.GetType() {
					return false, nil
				}
			}
		}
	}
	return true, nil
}

// output returns the columns of a revision.
func (l *layouts) output(revision uint64) (*output, error) {
	if o := l.out[revision]; o != nil {
		return o, nil
	}
	s, err := l.schema(revision)
	if err != nil {
		return nil, err
	}
	o := &output{revision: revision, schema: s, names: map[string]int{}}
	for i, c := range s.GetColumns() {
		column, err := newColumn(c)
		if err != nil {
			return nil, fmt.Errorf("schema revision %d, column %s: %w", revision, c.GetName(), err)
		}
		o.columns = append(o.columns, column)
		o.names[c.GetName()] = i
	}
	l.out[revision] = o
	return o, nil
}

func newColumn(c *controlv1.SchemaColumn) (*native.Column, error) {
	t, err := native.ParseType(c.GetType())
	if err != nil {
		return nil, err
	}
	return native.NewColumn(t, optional(c)), nil
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
		at, ok := to.names[c.GetName()]
		if ok {
			o := to.schema.GetColumns()[at]
			if o.GetSource() == c.GetSource() && o.GetType() == c.GetType() {
				t := target{column: to.columns[at]}
				switch {
				case optional(o) && !optional(c):
					t.how = addPresence
				case !optional(o) && optional(c):
					t.how = dropPresence
				}
				m.cells = append(m.cells, t)
				filled[at] = true
				continue
			}
		}
		column, err := newColumn(c)
		if err != nil {
			return nil, err
		}
		m.cells = append(m.cells, target{column: column, how: drop})
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

// append appends a row.
func (m *mapping) append(cells []byte) (err error) {
	var scratch [64]byte
	for _, t := range m.cells {
		switch t.how {
		case asItIs:
			cells, err = t.column.AppendCell(cells)
		case drop:
			cells, err = t.column.AppendCell(cells)
			t.column.Reset()
		case addPresence:
			whole := append(append(scratch[:0], 0), cells...)
			if whole, err = t.column.AppendCell(whole); err == nil {
				cells = cells[len(cells)-len(whole):]
			}
		case dropPresence:
			cells, err = appendPresent(t.column, cells)
		}
		if err != nil {
			return err
		}
	}
	if len(cells) > 0 {
		return fmt.Errorf("%d bytes follow the last cell of a row", len(cells))
	}
	return appendMissing(m.missing)
}

// appendPresent appends the cell of an optional column to one that is not.
func appendPresent(column *native.Column, cell []byte) ([]byte, error) {
	if len(cell) > 2 && cell[0] == 1 && cell[1] == 0 { // absent: the default value behind it is for nobody
		rest, err := column.AppendCell(cell[2:])
		if err != nil {
			return nil, err
		}
		column.Truncate(column.Rows() - 1)
		return rest, appendMissing([]*native.Column{column})
	}
	if len(cell) == 0 {
		return nil, fmt.Errorf("a row is cut off")
	}
	return column.AppendCell(cell[1:])
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
