package sink

import (
	"cmp"
	"errors"
	"fmt"
	"slices"

	"github.com/ClickHouse/ch-go/proto"

	controlv1 "sluice/gen/sluice/control/v1"
	eventv1 "sluice/gen/sluice/event/v1"
	"sluice/libs/batch"
	"sluice/libs/native"
	"sluice/services/sink/internal/block"
)

// group is a block.Group with its columns.
type group struct {
	block.Group
	columns []proto.InputColumn
	natives []*native.Column // same order as columns
	source  []int            // which column of the layout each is
	account account
	origins []batch.Origin // of a join's rows, where the assembler keeps them
}

// layout is a schema revision with its types parsed.
type layout struct {
	revision uint64
	columns  []*controlv1.SchemaColumn
	types    []*native.Type
	optional []int // ordinal among the optional columns, or -1
	// Number of optional columns: those with a default, which the server computes for rows that lack them.
	optionals int
	// gone: see present. Owned by the goroutine that sends.
	gone map[string]string
}

func layoutsOf(record *controlv1.PipelineRecord) (map[uint64]*layout, error) {
	out := make(map[uint64]*layout, len(record.GetSchemas()))
	for _, schema := range record.GetSchemas() {
		l := &layout{revision: schema.GetRevision(), columns: schema.GetColumns()}
		for _, c := range schema.GetColumns() {
			t, err := native.ParseType(c.GetType())
			if err != nil {
				return nil, fmt.Errorf("schema revision %d, column %s: %w", schema.GetRevision(), c.GetName(), err)
			}
			l.types = append(l.types, t)
			ordinal := -1
			if c.GetDefaultExpression() != "" {
				ordinal = l.optionals
				l.optionals++
			}
			l.optional = append(l.optional, ordinal)
		}
		out[l.revision] = l
	}
	return out, nil
}

// assembler appends the selected rows of messages to a block's groups. Its buffers are used again after reset.
type assembler struct {
	layout *layout // of the groups; nil when there are none
	count  int
	groups []*group
	spare  []*group // of the same layout, emptied
	raw    []byte   // decompressed columns of one message
	wires  [][]byte
	masks  [][]byte
	notes  []note // of the messages
	// identity is that of the rows.
	identity identity
	// origins says that of a join's rows it is to be kept what they were made of.
	origins bool
}

// maxSpare bounds the groups whose memory is kept, where events lack ever other columns.
const maxSpare = 8

func (a *assembler) reset() {
	clear(a.notes)
	a.notes = a.notes[:0]
	for _, g := range a.groups {
		for _, c := range g.natives {
			c.Reset()
		}
		g.Index, g.Rows = g.Index[:0], 0
		g.origins = g.origins[:0]
		g.account.reset()
	}
	if len(a.spare) < maxSpare {
		a.spare = append(a.spare, a.groups...)
	}
	a.groups, a.count = a.groups[:0], 0
	a.identity.reset()
}

// add appends a message's selected rows. After an error the block is of no use.
func (a *assembler) add(v *batch.View, l *layout) error {
	if a.layout != l {
		if a.count > 0 {
			return errors.New("a block of two schema revisions")
		}
		a.layout, a.groups, a.spare = l, nil, nil
	}
	raw, err := v.RawColumns(a.raw)
	if err != nil {
		return err
	}
	if v.Compression != eventv1.Compression_COMPRESSION_UNSPECIFIED {
		a.raw = raw // else it is the message's own memory
	}
	if err := a.split(raw, v.Rows); err != nil {
		return err
	}
	var keep []byte
	if v.Selected < v.Rows {
		keep = v.Selection
	}
	for _, part := range block.Partition(v.Rows, keep, v.Selected, a.masks) {
		g := a.group(part.Pattern)
		for i, c := range g.natives {
			wire := a.wires[g.source[i]]
			if err := c.AppendFromWire(wire, v.Rows, part.Keep); err != nil {
				return fmt.Errorf("column %s: %w", g.columns[i].Name, err)
			}
		}
		a.index(g, part)
		g.account.add(v, part.Keep, g.Rows)
		if a.origins {
			g.origins = appendOrigins(g.origins, v, part.Keep)
		}
	}
	a.count += v.Selected
	a.identity.add(v)
	return nil
}

// split finds the columns in a message and, of optional ones, in which rows they are present.
func (a *assembler) split(raw []byte, n int) error {
	a.wires, a.masks = a.wires[:0], a.masks[:0]
	for i, c := range a.layout.columns {
		wire, rest, err := batch.NextColumn(raw)
		if err != nil {
			return fmt.Errorf("column %s: %w", c.GetName(), err)
		}
		raw = rest
		a.wires = append(a.wires, wire)
		if a.layout.optional[i] < 0 {
			continue
		}
		all, mask, err := native.PresenceFromWire(wire, n)
		if err != nil {
			return fmt.Errorf("column %s: %w", c.GetName(), err)
		}
		if all {
			mask = nil
		}
		a.masks = append(a.masks, mask)
	}
	if len(raw) != 0 {
		return fmt.Errorf("%d bytes follow the last column", len(raw))
	}
	return nil
}

// index notes which rows of the block the part's rows are, once that is not plain.
func (a *assembler) index(g *group, part block.Part) {
	plain := len(g.Index) == 0 && g.Rows == a.count && part.Index == nil
	if !plain {
		for row := len(g.Index); row < g.Rows; row++ { // so far it was plain
			g.Index = append(g.Index, uint32(row))
		}
		for row := range part.Rows {
			at := row
			if part.Index != nil {
				at = int(part.Index[row])
			}
			g.Index = append(g.Index, uint32(a.count+at))
		}
	}
	g.Rows += part.Rows
}

// group returns the group of a pattern, a new one if need be.
func (a *assembler) group(pattern string) *group {
	for _, g := range a.groups {
		if g.Pattern == pattern {
			return g
		}
	}
	for i, g := range a.spare {
		if g.Pattern == pattern {
			a.spare = slices.Delete(a.spare, i, i+1)
			a.groups = append(a.groups, g)
			return g
		}
	}
	g := newGroup(a.layout, pattern)
	a.groups = append(a.groups, g)
	return g
}

func newGroup(l *layout, pattern string) *group {
	g := &group{Group: block.Group{Pattern: pattern}}
	for i, c := range l.columns {
		optional := l.optional[i] >= 0
		if optional && !block.Has(pattern, l.optional[i]) {
			continue
		}
		column := native.NewColumn(l.types[i], optional)
		g.natives = append(g.natives, column)
		g.source = append(g.source, i)
		g.columns = append(g.columns, proto.InputColumn{Name: c.GetName(), Data: column})
		if !optional {
			g.account.hash(c.GetName(), column)
		}
	}
	return g
}

// complete hashes the rows for the ledger.
func (a *assembler) complete() {
	for _, g := range a.groups {
		g.account.complete(g.Rows)
	}
}

// done orders the groups by their patterns, so that a range that is sent again is sent in the same order.
func (a *assembler) done() []*group {
	slices.SortFunc(a.groups, func(x, y *group) int { return cmp.Compare(x.Pattern, y.Pattern) })
	return a.groups
}

// slice returns a range of a group as columns of their own.
func (g *group) slice(l *layout, r block.Range) ([]proto.InputColumn, error) {
	if r.From == 0 && r.To == g.Rows {
		return g.columns, nil
	}
	keep := make([]byte, (g.Rows+7)/8)
	for row := r.From; row < r.To; row++ {
		keep[row/8] |= 1 << (row % 8)
	}
	return g.kept(l, keep)
}

// kept returns some rows of a group as columns of their own.
func (g *group) kept(l *layout, keep []byte) ([]proto.InputColumn, error) {
	out := make([]proto.InputColumn, len(g.columns))
	var wire []byte
	for i, c := range g.natives {
		column := native.NewColumn(l.types[g.source[i]], l.optional[g.source[i]] >= 0)
		wire = c.AppendWire(wire[:0])
		if err := column.AppendFromWire(wire, g.Rows, keep); err != nil {
			return nil, fmt.Errorf("column %s: %w", g.columns[i].Name, err)
		}
		out[i] = proto.InputColumn{Name: g.columns[i].Name, Data: column}
	}
	return out, nil
}
