package control

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strings"

	controlv1 "sluice/gen/sluice/control/v1"
	"sluice/libs/clickhouse"
	"sluice/libs/native"
	"sluice/libs/spec"
)

// maxListed bounds the names in one message.
const maxListed = 12

// resolve fits the columns to the table and says what is wrong. A table that is to be made is put
// together here and made later, when all else is known to be right.
func (c *checked) resolve(f *fields, sampled bool) ([]spec.Problem, error) {
	if !c.table.Exists {
		var problems []spec.Problem
		if c.create, problems = newColumns(c.spec, f); len(problems) > 0 {
			return problems, nil
		}
		c.table = pretend(c.table, c.create)
		// The sample was read for the paths that were known without the columns.
		var err error
		if f, err = look(pathsOf(c.spec, c.table), f.samples); err != nil {
			return nil, err
		}
	}
	columns, warnings, problems := fit(c.spec, c.table)
	c.columns = columns
	c.warnings = append(c.warnings, warnings...)
	if sampled {
		c.warnings = append(c.warnings, compare(c.spec, columns, f)...)
	}
	return problems, nil
}

// fit makes the pipeline's columns: every column of the table that an insert may name.
func fit(p *controlv1.Pipeline, table *clickhouse.Table) (columns []*controlv1.SchemaColumn, warnings []string, problems []spec.Problem) {
	for i, declared := range p.GetColumns() {
		if _, ok := table.Column(declared.GetName()); !ok {
			problems = append(problems, spec.Problem{
				Field: fmt.Sprintf("columns[%d].name", i), Value: declared.GetName(), What: "is no column of " + table.Name.String() + " that can be inserted into",
				Remedy: "give one of " + listed(columnNames(table)),
			})
		}
	}
	for _, column := range table.Columns {
		if _, err := native.ParseType(column.Type); err != nil {
			what := fmt.Sprintf("column %s has type %s, which Sluice cannot fill", column.Name, column.Type)
			if column.Default != "" {
				warnings = append(warnings, what+"; it always takes its default")
				continue
			}
			problems = append(problems, spec.Problem{Field: "sink.clickhouse.table", Value: table.Name.String(), What: what,
				Remedy: "give the column a DEFAULT, or change its type"})
			continue
		}
		columns = append(columns, &controlv1.SchemaColumn{
			Name: column.Name, Type: column.Type, From: fromOf(p, column.Name), DefaultExpression: column.Default,
		})
	}
	if len(columns) == 0 && len(problems) == 0 {
		problems = append(problems, spec.Problem{Field: "sink.clickhouse.table", Value: table.Name.String(), What: "has no column that can be inserted into",
			Remedy: "name another table"})
	}
	return columns, warnings, problems
}

// compare holds the columns and the fields of dedup against the sample.
func compare(p *controlv1.Pipeline, columns []*controlv1.SchemaColumn, f *fields) []string {
	topic := p.GetSource().GetKafka().GetTopic()
	switch {
	case len(f.samples) == 0:
		return []string{fmt.Sprintf("topic %s has no events yet, so their fields could not be compared with the columns", topic)}
	case f.events == 0:
		return []string{fmt.Sprintf("none of %d sampled events of topic %s is a JSON object; such events go to the dead letters", len(f.samples), topic)}
	}
	var warnings []string
	never := func(path string) bool {
		_, _, metadata := spec.Metadata(path)
		return path != "" && !metadata && f.seen[path] == 0
	}
	for i, key := range p.GetDedup().GetKey() {
		if never(key) {
			then := "go to the dead letters"
			if p.Dedup.MissingKey == controlv1.MissingKey_PASS {
				then = "pass without being compared"
			}
			warnings = append(warnings, fmt.Sprintf("dedup.key[%d]: %s: not in any of %d sampled events; events without their key %s", i, key, f.events, then))
		}
	}
	for _, field := range []struct{ name, path string }{
		{"dedup.version", p.GetDedup().GetVersion()}, {"dedup.time", p.GetDedup().GetTime()},
	} {
		if never(field.path) {
			warnings = append(warnings, fmt.Sprintf("%s: %s: not in any of %d sampled events", field.name, field.path, f.events))
		}
	}
	used := map[string]bool{}
	for _, c := range columns {
		used[c.From] = true
		if root, _, ok := strings.Cut(c.From, "."); ok {
			used[root] = true
		}
		if never(c.From) {
			warnings = append(warnings, fmt.Sprintf("column %s: field %s is not in any of %d sampled events: %s", c.Name, c.From, f.events, without(c)))
		}
	}
	for _, path := range slices.Concat(p.GetDedup().GetKey(), []string{p.GetDedup().GetVersion(), p.GetDedup().GetTime()}) {
		root, _, _ := strings.Cut(path, ".")
		used[path], used[root] = true, true
	}
	unused := slices.DeleteFunc(slices.Clone(f.names), func(name string) bool { return used[name] })
	if len(unused) > 0 {
		warnings = append(warnings, "fields of the events that no column takes are left out: "+listed(unused))
	}
	return warnings
}

// without says what becomes of a column whose field is missing.
func without(c *controlv1.SchemaColumn) string {
	t, err := native.ParseType(c.Type)
	switch {
	case c.DefaultExpression != "":
		return "it takes its default"
	case err == nil && t.Nullable():
		return "it is NULL"
	default:
		return "such events go to the dead letters, as the column is neither Nullable nor has a DEFAULT"
	}
}

// metadataTypes are the columns that Kafka metadata is put into when a table is made.
var metadataTypes = map[string]string{
	spec.MetaTopic:     "LowCardinality(String)",
	spec.MetaPartition: "Int32",
	spec.MetaOffset:    "Int64",
	spec.MetaTimestamp: "DateTime64(3, 'UTC')",
	spec.MetaKey:       "Nullable(String)",
	spec.MetaHeader:    "Nullable(String)",
}

// newColumns are the columns of a table that is to be made: the declared ones with their types, as far
// as they are not given, from the sample; without declared ones, all fields of the sample.
func newColumns(p *controlv1.Pipeline, f *fields) ([]*controlv1.Column, []spec.Problem) {
	if len(p.GetColumns()) == 0 {
		columns, err := clickhouse.InferColumns(f.samples, p.GetDedup().GetKey()...)
		if err != nil {
			return nil, []spec.Problem{configProblem("sink.clickhouse.create_table", err)}
		}
		return columns, nil
	}
	var columns []*controlv1.Column
	var problems []spec.Problem
	for i, declared := range p.GetColumns() {
		column := &controlv1.Column{Name: declared.Name, From: declared.From, Type: declared.Type}
		columns = append(columns, column)
		if column.Type == "" {
			column.Type = typeOf(p, f, declared.From)
		}
		field := fmt.Sprintf("columns[%d].type", i)
		if column.Type == "" {
			problems = append(problems, spec.Problem{Field: field, What: fmt.Sprintf("is missing, and field %s of column %s is in no sampled event", declared.From, declared.Name),
				Remedy: "give the column's ClickHouse type"})
		} else if _, err := native.ParseType(column.Type); err != nil {
			problems = append(problems, spec.Problem{Field: field, Value: column.Type, What: err.Error(), Remedy: "give another type"})
		}
	}
	return columns, problems
}

// typeOf finds a type for what the sample has at a path; "" when it has nothing there.
func typeOf(p *controlv1.Pipeline, f *fields, from string) string {
	if name, _, ok := spec.Metadata(from); ok {
		return metadataTypes[name]
	}
	if f.seen[from] == 0 {
		return ""
	}
	// Each value becomes an event of one field; events without it become empty ones.
	events := make([][]byte, f.events)
	for i := range events {
		events[i] = []byte("{}")
		if i < len(f.values[from]) {
			events[i] = bytes.Join([][]byte{[]byte(`{"v":`), f.values[from][i], []byte("}")}, nil)
		}
	}
	var required []string
	if slices.Contains(p.GetDedup().GetKey(), from) {
		required = append(required, "v")
	}
	columns, err := clickhouse.InferColumns(events, required...)
	if err != nil || len(columns) != 1 {
		return ""
	}
	return columns[0].GetType()
}

// pretend is the table as it will be.
func pretend(t *clickhouse.Table, columns []*controlv1.Column) *clickhouse.Table {
	made := *t
	made.Exists, made.Engine, made.Window = true, "MergeTree", clickhouse.DefaultWindow
	for _, c := range columns {
		made.Columns = append(made.Columns, clickhouse.Column{Name: c.Name, Type: c.Type})
	}
	return &made
}

func configProblem(field string, err error) spec.Problem {
	var config *clickhouse.ConfigError
	if errors.As(err, &config) {
		return spec.Problem{Field: config.Field, What: config.Err.Error()}
	}
	return spec.Problem{Field: field, What: err.Error()}
}

func columnNames(table *clickhouse.Table) []string {
	names := make([]string, len(table.Columns))
	for i, c := range table.Columns {
		names[i] = c.Name
	}
	return names
}

func listed(names []string) string {
	if len(names) > maxListed {
		return strings.Join(names[:maxListed], ", ") + fmt.Sprintf(" and %d more", len(names)-maxListed)
	}
	return strings.Join(names, ", ")
}
