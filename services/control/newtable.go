package control

import (
	"bytes"
	"fmt"
	"slices"
	"strings"

	controlv1 "sluice/gen/sluice/control/v1"
	"sluice/libs/clickhouse"
	"sluice/libs/native"
	"sluice/libs/spec"
)

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
// as they are not given, from the samples; without declared ones, all fields of the samples.
func (c *checked) newColumns() ([]clickhouse.Column, []spec.Problem) {
	if len(c.spec.GetColumns()) == 0 {
		return c.sampledColumns()
	}
	var columns []clickhouse.Column
	var problems []spec.Problem
	for i, declared := range c.spec.GetColumns() {
		field := fmt.Sprintf("columns[%d].type", i)
		column := clickhouse.Column{Name: declared.Name, Type: declared.Type}
		if column.Type == "" {
			o, problem := c.originOf(declared.Name, declared.From)
			if problem != nil {
				problem.Field = fmt.Sprintf("columns[%d].from", i)
				problems = append(problems, *problem)
				continue
			}
			if column = c.typed(declared.Name, o); column.Type == "" {
				problems = append(problems, spec.Problem{Field: field,
					What:   fmt.Sprintf("is missing, and field %s of column %s %s", declared.From, declared.Name, c.topic(o.source).fields.nowhere(o.path)),
					Remedy: "give the column's ClickHouse type"})
				continue
			}
		}
		if _, err := native.ParseType(column.Type); err != nil {
			problems = append(problems, spec.Problem{Field: field, Value: column.Type, What: err.Error(), Remedy: "give another type"})
		}
		columns = append(columns, column)
	}
	return columns, problems
}

// sampledColumns are all fields of the samples. Fields that both sources of a join have are named after their source, too,
// unless they are the key on both sides.
func (c *checked) sampledColumns() ([]clickhouse.Column, []spec.Problem) {
	var problems []spec.Problem
	bySource := make([][]clickhouse.Column, len(c.topics))
	sources := map[string]int{} // how many have a field
	for i, t := range c.topics {
		columns, err := clickhouse.InferColumns(t.samples, c.required(t.branch)...)
		if err != nil {
			problem := configProblem("sink.clickhouse.create_table", err)
			if t.branch.Source != "" {
				problem.What = "topic " + t.branch.Spec.GetKafka().GetTopic() + ": " + problem.What
			}
			problems = append(problems, problem)
		}
		if slices.ContainsFunc(columns, func(column clickhouse.Column) bool { return column.Name == "" }) {
			problem := spec.Problem{Field: "sink.clickhouse.create_table", What: "a sampled event of topic " + t.branch.Spec.GetKafka().GetTopic() + ` has a field whose name is empty (""), which no column can have`,
				Remedy: "declare the columns, such as columns: [{name: id, type: String}]"}
			problems = append(problems, problem)
			continue
		}
		for j, column := range columns {
			sources[column.Name]++
			columns[j] = c.outerColumn(t.branch.Source, column)
		}
		bySource[i] = columns
	}
	both := func(name string) bool {
		return slices.ContainsFunc(c.spec.GetJoin().GetOn(), func(on *controlv1.JoinOn) bool { return on.GetLeft() == name && on.GetRight() == name })
	}
	var all []clickhouse.Column
	for i, t := range c.topics {
		arrays := 0
		for _, column := range bySource[i] {
			if sources[column.Name] > 1 {
				if both(column.Name) {
					if t.branch.Side == spec.Left {
						all = append(all, column)
					}
					continue
				}
				column.Name = t.branch.Source + "." + column.Name
				if strings.HasPrefix(column.Type, "Array(") {
					arrays++
				}
			}
			all = append(all, column)
		}
		if arrays > 1 {
			// ClickHouse takes arrays n.a and n.b for one Nested and wants them equally long.
			problems = append(problems, spec.Problem{Field: "columns", What: "several arrays are in the events of both sources",
				Remedy: "declare the columns, such as {name: " + t.branch.Source + "_tags, from: " + t.branch.Source + ".tags}"})
		}
	}
	return all, problems
}

// required are the fields without which a row of the source is never written.
func (c *checked) required(b spec.Branch) []string {
	var required []string
	if b.Dedup.GetMissingKey() != controlv1.MissingKey_PASS {
		required = append(required, b.Dedup.GetKey()...)
	}
	if b.Side == spec.Right || c.spec.GetJoin().GetType() != controlv1.Join_LEFT {
		required = append(required, b.JoinKey...)
	}
	return required
}

// outerColumn makes room for the rows that have no counterpart in the source.
func (c *checked) outerColumn(source string, column clickhouse.Column) clickhouse.Column {
	t, err := native.ParseType(column.Type)
	switch {
	case !c.outer(source) || err != nil || t.Nullable() || column.Default != "":
	case strings.HasPrefix(column.Type, "Array("):
		column.Default = "[]"
	case strings.HasPrefix(column.Type, "LowCardinality("):
		column.Type = "LowCardinality(Nullable(" + strings.TrimPrefix(column.Type, "LowCardinality(") + ")"
	default:
		column.Type = "Nullable(" + column.Type + ")"
	}
	return column
}

// typed finds a type for what the sample has at a path; none when it has nothing there.
func (c *checked) typed(name string, o origin) clickhouse.Column {
	column := clickhouse.Column{Name: name}
	if meta, _, ok := spec.Metadata(o.path); ok {
		column.Type = metadataTypes[meta]
		return c.outerColumn(o.source, column)
	}
	t := c.topic(o.source)
	if t.fields.seen[o.path] == 0 {
		return column
	}
	// Each value becomes an event of one field; events without it become empty ones.
	events := make([][]byte, t.fields.events)
	for i := range events {
		events[i] = []byte("{}")
		if i < len(t.fields.values[o.path]) {
			events[i] = bytes.Join([][]byte{[]byte(`{"v":`), t.fields.values[o.path][i], []byte("}")}, nil)
		}
	}
	var required []string
	if slices.Contains(c.required(t.branch), o.path) {
		required = append(required, "v")
	}
	columns, err := clickhouse.InferColumns(events, required...)
	if err != nil || len(columns) != 1 {
		return column
	}
	columns[0].Name = name
	return c.outerColumn(o.source, columns[0])
}

// pretend is the table as it will be.
func pretend(t *clickhouse.Table, columns []clickhouse.Column) *clickhouse.Table {
	made := *t
	made.Exists, made.Engine, made.Window = true, "MergeTree", clickhouse.DefaultWindow
	made.Columns = append(made.Columns, columns...)
	return &made
}
