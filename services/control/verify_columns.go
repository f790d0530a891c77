package control

import (
	"fmt"
	"slices"
	"strings"

	controlv1 "sluice/gen/sluice/control/v1"
	"sluice/libs/clickhouse"
	"sluice/libs/native"
)

// audited is what of a table's rows is compared.
type audited struct {
	// names of the columns that the sink hashes; all of them can be read and hash alike in every schema revision.
	names []string
	// left out, with the reason: of each the rows are compared without it.
	left []string
	// why the rows cannot be compared by their hashes; empty when they can.
	why []string
}

// hashed is whether the sink takes the column into a row's hash: see native.HashRows.
func hashed(c *controlv1.SchemaColumn) (t *native.Type, why string) {
	t, err := native.ParseType(c.GetType())
	switch {
	case err != nil:
		return nil, err.Error()
	case c.GetDefaultExpression() != "":
		return nil, "it has a DEFAULT, which ClickHouse computes where an event lacks the field"
	}
	if err := native.Hashable(t); err != nil {
		return nil, fmt.Sprintf("%s: %v", t, err)
	}
	return t, ""
}

// auditedColumns chooses the columns. Rows were hashed by the schema of their time: a column that came later was its type's default
// before, which adds nothing, so all that was ever hashed is compared, unless it was hashed in some revisions and not in others.
func auditedColumns(schemas []*controlv1.Schema, table *clickhouse.Table) (a audited) {
	left := map[string]string{}
	revisions := map[string][]*native.Type{}
	for _, schema := range schemas {
		for _, c := range schema.GetColumns() {
			t, why := hashed(c)
			if why != "" {
				left[c.GetName()] = why
				continue
			}
			if !slices.Contains(a.names, c.GetName()) {
				a.names = append(a.names, c.GetName())
			}
			revisions[c.GetName()] = append(revisions[c.GetName()], t)
		}
	}
	for _, name := range a.names {
		now, there := table.Column(name)
		if !there {
			a.why = append(a.why, fmt.Sprintf("column %s is no longer in the table", name))
			continue
		}
		if why, ok := left[name]; ok {
			a.why = append(a.why, fmt.Sprintf("column %s was compared for a time only: %s", name, why))
			continue
		}
		typ, err := native.ParseType(now.Type)
		if err == nil {
			err = native.Hashable(typ)
		}
		if err != nil {
			a.why = append(a.why, fmt.Sprintf("column %s has become %s: %v", name, now.Type, err))
			continue
		}
		for _, was := range revisions[name] {
			if !native.HashesAlike(was, typ) {
				a.why = append(a.why, fmt.Sprintf("column %s was written as %s and is %s now", name, was, typ))
				break
			}
		}
	}
	for _, c := range table.Columns {
		if why, ok := left[c.Name]; ok && !slices.Contains(a.names, c.Name) {
			a.left = append(a.left, fmt.Sprintf("column %s is not compared: %s", c.Name, why))
		}
	}
	return a
}

// read is the columns to read, at least one, and how many of them, from the first on, are hashed.
func (a audited) read(table *clickhouse.Table) (columns []string, hashed int, err error) {
	if len(a.why) == 0 && len(a.names) > 0 {
		return a.names, len(a.names), nil
	}
	// Only counted: any column will do.
	for _, c := range table.Columns {
		if t, err := native.ParseType(c.Type); err == nil && native.Hashable(t) == nil {
			return []string{c.Name}, 0, nil
		}
	}
	return nil, 0, fmt.Errorf("none of its columns can be read: %s", strings.Join(columnNames(table), ", "))
}
