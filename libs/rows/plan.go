package rows

import (
	"fmt"
	"strings"

	"sluice/gen/sluice/control/v1"
	"sluice/libs/jsonread"
	"sluice/libs/native"
	"sluice/libs/spec"
)

// Plan is what a revision of a schema takes out of a record. It is immutable and may be shared.
type Plan struct {
	json    *jsonread.Plan
	paths   []string
	columns []column
	// Indexes into paths; version and time are -1 without such a field.
	key           []int
	version, time int
	passKeyless   bool
	// With a join: the fields of its key, and its event time; -1 for Kafka's timestamp.
	join      bool
	joinKey   []int
	eventTime int
	headers   bool
}

// column is where the value of a column comes from.
type column struct {
	name, from string
	typ        *native.Type
	optional   bool
	// path is the index of its JSON path; of metadata -1.
	path   int
	meta   string // as spec.Metadata names it
	header string
	// escaped: the type keeps values as JSON, where any bytes will not do.
	escaped bool
	// absent is the value of a key or header that the record lacks.
	absent jsonread.Value
}

// NewPlan makes the plan of a schema; dedup is nil in a pipeline without.
func NewPlan(columns []*controlv1.SchemaColumn, dedup *controlv1.Dedup) (*Plan, error) {
	return newPlan(columns, spec.Branch{Dedup: dedup})
}

// NewBranchPlan makes the plan of one source of a schema, whose columns are spec.Columns.
func NewBranchPlan(schema *controlv1.Schema, b spec.Branch) (*Plan, error) {
	return newPlan(spec.Columns(schema, b.Source), b)
}

func newPlan(columns []*controlv1.SchemaColumn, b spec.Branch) (*Plan, error) {
	p := &Plan{version: -1, time: -1, eventTime: -1, join: b.JoinKey != nil}
	dedup := b.Dedup
	indexes := make(map[string]int)
	index := func(path string) int {
		path = spec.Path(path)
		i, ok := indexes[path]
		if !ok {
			i = len(p.paths)
			indexes[path] = i
			p.paths = append(p.paths, path)
		}
		return i
	}
	for _, c := range columns {
		typ, err := native.ParseType(c.GetType())
		if err != nil {
			return nil, fmt.Errorf("column %q: %w", c.GetName(), err)
		}
		col := column{name: c.GetName(), from: c.GetFrom(), typ: typ, optional: c.GetDefaultExpression() != "", path: -1}
		if col.from == "" {
			col.from = col.name
		}
		var metadata bool
		if col.meta, col.header, metadata = spec.Metadata(col.from); metadata {
			col.escaped = strings.Contains(c.GetType(), "Dynamic")
			if !typ.Nullable() && !col.optional {
				col.absent = jsonread.Value{Kind: jsonread.String}
			}
			p.headers = p.headers || col.meta == spec.MetaHeader
		} else {
			col.path = index(col.from)
			col.from = p.paths[col.path]
		}
		p.columns = append(p.columns, col)
	}
	for _, path := range dedup.GetKey() {
		p.key = append(p.key, index(path))
	}
	if dedup.GetVersion() != "" {
		p.version = index(dedup.GetVersion())
	}
	if dedup.GetTime() != "" {
		p.time = index(dedup.GetTime())
	}
	for _, path := range b.JoinKey {
		p.joinKey = append(p.joinKey, index(path))
	}
	if b.Time != "" {
		p.eventTime = index(b.Time)
	}
	p.passKeyless = dedup.GetMissingKey() == controlv1.MissingKey_PASS
	var err error
	if p.json, err = jsonread.NewPlan(p.paths); err != nil {
		return nil, err
	}
	return p, nil
}

// NewColumns makes empty columns for rows by the plan.
func (p *Plan) NewColumns() []*native.Column {
	columns := make([]*native.Column, len(p.columns))
	for i, c := range p.columns {
		columns[i] = native.NewColumn(c.typ, c.optional)
	}
	return columns
}

// NeedsHeaders tells whether a column takes a header.
func (p *Plan) NeedsHeaders() bool { return p.headers }

// Dedup tells whether rows have a key.
func (p *Plan) Dedup() bool { return len(p.key) > 0 }

// EventTime tells whether rows have a time of their own.
func (p *Plan) EventTime() bool { return p.time >= 0 }

// Join tells whether rows have a join key, or none, and an event time.
func (p *Plan) Join() bool { return p.join }

// Versions tells whether rows have a version.
func (p *Plan) Versions() bool { return p.version >= 0 }
