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

func newLayouts(record *controlv1.PipelineRecord) *layouts {
	join := record.GetSpec().GetJoin()
	l := &layouts{
		schemas: map[uint64]*controlv1.Schema{}, sources: [2]string{join.GetLeft(), join.GetRight()},
		in: map[inKey]*input{}, out: map[uint64]*output{}, maps: map[mapKey]*mapping{},
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
