package control

import (
	"fmt"
	"slices"
	"strings"

	controlv1 "sluice/gen/sluice/control/v1"
	"sluice/libs/spec"
)

// origin is where a column's value comes from: a JSON path or Kafka metadata, with a join of one of the sources.
type origin struct{ source, path string }

// read reads the samples for all paths that are known.
func (c *checked) read() (err error) {
	for i := range c.topics {
		t := &c.topics[i]
		if t.fields, err = look(c.pathsOf(t.branch), t.samples); err != nil {
			return fmt.Errorf("read the sample of topic %s: %w", t.branch.Spec.GetKafka().GetTopic(), err)
		}
	}
	return nil
}

func (c *checked) topic(source string) *topicSide {
	for i := range c.topics {
		if c.topics[i].branch.Source == source {
			return &c.topics[i]
		}
	}
	return nil
}

// pathsOf are the JSON paths that may have to be found in the events of a branch, each once.
func (c *checked) pathsOf(b spec.Branch) []string {
	paths := fieldsOf(b)
	add := func(from string) {
		if source, path, ok := spec.Qualified(c.spec, from); ok {
			if source != b.Source {
				return
			}
			from = path
		}
		if _, _, metadata := spec.Metadata(from); !metadata && from != "" && !slices.Contains(paths, from) {
			paths = append(paths, from)
		}
	}
	for _, column := range c.spec.GetColumns() {
		add(column.GetFrom())
	}
	for _, column := range c.table.Columns {
		add(fromOf(c.spec, column.Name))
	}
	return paths
}

// fieldsOf are the fields that the specification itself names of a branch.
func fieldsOf(b spec.Branch) []string {
	var paths []string
	for _, path := range slices.Concat(b.Dedup.GetKey(), []string{b.Dedup.GetVersion(), b.Dedup.GetTime(), b.Time}, b.JoinKey) {
		if path != "" && !slices.Contains(paths, path) {
			paths = append(paths, path)
		}
	}
	return paths
}

// originOf tells where a column comes from. problem says why that cannot be told, without its field.
func (c *checked) originOf(column, from string) (o origin, problem *spec.Problem) {
	o, _, problem = c.place(column, from)
	return o, problem
}

// place is originOf that tells, too, what is guessed: why the column is taken from this source and not the other; "" when that is known.
func (c *checked) place(column, from string) (o origin, guess string, problem *spec.Problem) {
	join := c.spec.GetJoin()
	if join == nil {
		return origin{path: from}, "", nil
	}
	if source, path, ok := spec.Qualified(c.spec, from); ok {
		return origin{source, path}, "", nil
	}
	for _, on := range join.GetOn() {
		if on.GetLeft() == from && on.GetRight() == from {
			return origin{join.GetLeft(), from}, "", nil // equal on both sides
		}
	}
	for _, e := range c.earlier {
		// Another sample must not move a column from one source to the other.
		if e.GetName() == column && e.GetFrom() == from && c.topic(e.GetSource()) != nil {
			return origin{e.GetSource(), from}, "", nil
		}
	}
	var has, silent []string
	for _, t := range c.topics {
		if t.fields.present[from] > 0 || slices.Contains(fieldsOf(t.branch), from) {
			has = append(has, t.branch.Source)
		}
		if t.fields.events == 0 {
			silent = append(silent, t.branch.Source)
		}
	}
	example := fmt.Sprintf("{name: %s, from: %s.%s}", column, join.GetLeft(), from)
	switch {
	case len(has) == 1:
		return origin{has[0], from}, "", nil
	case len(has) > 1:
		return o, "", &spec.Problem{Value: column, What: "is a field of the events of " + strings.Join(has, " and of "),
			Remedy: fmt.Sprintf("say which one under columns: %s, or from: %s.%s", example, join.GetRight(), from)}
	case len(silent) == 1:
		return origin{silent[0], from}, "it is taken from " + silent[0] + ", whose topic has no events to look at yet", nil
	case len(silent) > 1:
		return o, "", &spec.Problem{Value: column, What: "may come from either source: neither topic has events to look at yet",
			Remedy: "say which one under columns: " + example}
	}
	return origin{join.GetLeft(), from}, "it is taken from " + join.GetLeft() + ", the left source", nil
}

// guessed warns of columns whose source the samples do not tell.
func (c *checked) guessed() (warnings []string) {
	join := c.spec.GetJoin()
	for _, column := range c.columns {
		from := fromOf(c.spec, column.Name)
		o, guess, problem := c.place(column.Name, from)
		if guess == "" || problem != nil {
			continue
		}
		other := join.GetRight()
		if o.source == other {
			other = join.GetLeft()
		}
		warning := fmt.Sprintf("column %s: no sampled event has %s, so %s; if it is of %s, say so under columns: {name: %s, from: %s.%s}", column.Name, from, guess, other, column.Name, other, from)
		if first, _, dotted := strings.Cut(from, "."); dotted {
			warning += "; " + first + " is no source: they are " + join.GetLeft() + " and " + join.GetRight()
		}
		warnings = append(warnings, warning)
	}
	return warnings
}

// prefixed says what may be meant by a field of `on` that is in no event and has a dot.
func (c *checked) prefixed(path string) string {
	first, rest, dotted := strings.Cut(path, ".")
	join := c.spec.GetJoin()
	switch {
	case !dotted || join == nil:
		return ""
	case c.topic(first) != nil:
		return "; fields in on have no source in front: write " + rest
	}
	return "; fields in on have no source in front, and " + first + " is none: they are " + join.GetLeft() + " and " + join.GetRight()
}

// nested warns of arrays of one Nested, which must be equally long in each row, of which the events have some and not the others.
func (c *checked) nested() (warnings []string) {
	var order []string
	has, lacks := map[string][]string{}, map[string][]string{}
	for _, column := range c.columns {
		name, _, dotted := strings.Cut(column.GetName(), ".")
		t := c.topic(column.GetSource())
		if !dotted || !strings.HasPrefix(column.GetType(), "Array(") || t == nil || t.fields.events == 0 {
			continue
		}
		if !slices.Contains(order, name) {
			order = append(order, name)
		}
		if t.fields.absent(column.GetFrom()) == "" {
			has[name] = append(has[name], column.GetName())
		} else {
			lacks[name] = append(lacks[name], column.GetName())
		}
	}
	for _, name := range order {
		if len(has[name]) > 0 && len(lacks[name]) > 0 {
			warnings = append(warnings, fmt.Sprintf("columns %s and %s are of one Nested, whose arrays ClickHouse wants equally long in each row, but no sampled event has %s: say where it comes from, or drop the column",
				strings.Join(has[name], ", "), strings.Join(lacks[name], ", "), strings.Join(lacks[name], ", ")))
		}
	}
	return warnings
}

// outer tells that rows without a counterpart have no value from this source.
func (c *checked) outer(source string) bool {
	join := c.spec.GetJoin()
	return join.GetType() == controlv1.Join_LEFT && source == join.GetRight()
}

// orderBy are the columns that a new table is sorted by: the key of what is written.
func (c *checked) orderBy() []string {
	first := c.topics[0].branch
	key := first.Dedup.GetKey()
	if len(key) == 0 {
		key = first.JoinKey
	}
	var order []string
	for _, path := range key {
		for _, column := range c.create {
			o, problem := c.originOf(column.Name, fromOf(c.spec, column.Name))
			if problem == nil && o == (origin{first.Source, path}) {
				order = append(order, column.Name)
			}
		}
	}
	return order
}

// neverEqual warns of fields that are compared and have values of different types throughout, as 1 and "1".
func (c *checked) neverEqual() []string {
	var warnings []string
	for i, on := range c.spec.GetJoin().GetOn() {
		left, right := c.topics[0].fields.kinds(on.GetLeft()), c.topics[1].fields.kinds(on.GetRight())
		if len(left) > 0 && len(right) > 0 && !slices.ContainsFunc(left, func(kind string) bool { return slices.Contains(right, kind) }) {
			warnings = append(warnings, fmt.Sprintf("join.on[%d]: %s has %s in %s, %s has %s in %s: they are never equal",
				i, on.GetLeft(), strings.Join(left, " and "), c.spec.Join.GetLeft(), on.GetRight(), strings.Join(right, " and "), c.spec.Join.GetRight()))
		}
	}
	return warnings
}
