package control

import (
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
func (c *checked) resolve() ([]spec.Problem, error) {
	if err := c.read(); err != nil {
		return nil, err
	}
	if !c.table.Exists {
		var problems []spec.Problem
		if c.create, problems = c.newColumns(); len(problems) > 0 {
			return problems, nil
		}
		c.table = pretend(c.table, c.create)
		// The samples were read for the paths that were known without the columns.
		if err := c.read(); err != nil {
			return nil, err
		}
	}
	columns, warnings, problems := c.fit()
	c.columns = columns
	c.warnings = append(c.warnings, warnings...)
	for _, t := range c.topics {
		if t.sampled {
			c.warnings = append(append(c.warnings, c.compare(t)...), c.misfits(t)...)
		}
	}
	c.warnings = slices.Concat(c.warnings, c.guessed(), c.nested(), c.zeroed(), c.neverEqual())
	return problems, nil
}

// fit makes the pipeline's columns: every column of the table that an insert may name.
func (c *checked) fit() (columns []*controlv1.SchemaColumn, warnings []string, problems []spec.Problem) {
	table := c.table
	declaredAt := map[string]int{}
	for i, declared := range c.spec.GetColumns() {
		declaredAt[declared.GetName()] = i
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
		o, problem := c.originOf(column.Name, fromOf(c.spec, column.Name))
		if problem != nil {
			if problem.Field = "columns"; len(declaredAt) > 0 {
				if i, declared := declaredAt[column.Name]; declared {
					problem.Field = fmt.Sprintf("columns[%d].from", i)
				}
			}
			problems = append(problems, *problem)
			continue
		}
		columns = append(columns, &controlv1.SchemaColumn{
			Name: column.Name, Type: column.Type, Source: o.source, From: o.path, DefaultExpression: column.Default,
		})
	}
	if len(columns) == 0 && len(problems) == 0 {
		problems = append(problems, spec.Problem{Field: "sink.clickhouse.table", Value: table.Name.String(), What: "has no column that can be inserted into",
			Remedy: "name another table"})
	}
	return columns, warnings, problems
}

// compare holds the columns and the fields that the specification names against the sample of a topic.
func (c *checked) compare(t topicSide) []string {
	topic, b, f := t.branch.Spec.GetKafka().GetTopic(), t.branch, t.fields
	switch {
	case len(f.samples) == 0:
		return []string{fmt.Sprintf("topic %s has no events yet, so their fields could not be compared with the columns", topic)}
	case f.events == 0:
		return []string{fmt.Sprintf("none of %d sampled events of topic %s is a JSON object; such events go to the dead letters", len(f.samples), topic)}
	}
	var warnings []string
	warn := func(field, path, then string) {
		if absent := f.absent(path); absent != "" {
			warnings = append(warnings, fmt.Sprintf("%s: %s: %s%s", field, path, absent, then))
		}
	}
	at := ""
	if b.Source != "" {
		at = b.Field() + "."
	}
	for i, key := range b.Dedup.GetKey() {
		then := "; events without their key go to the dead letters"
		if b.Dedup.MissingKey == controlv1.MissingKey_PASS {
			then = "; events without their key pass without being compared"
		}
		warn(fmt.Sprintf("%sdedup.key[%d]", at, i), key, then)
	}
	warn(at+"dedup.version", b.Dedup.GetVersion(), "")
	warn(at+"dedup.time", b.Dedup.GetTime(), "")
	warn(at+"time", b.Time, "; events without it go to the dead letters")
	for i, key := range b.JoinKey {
		side := "left"
		if b.Side == spec.Right {
			side = "right"
		}
		warn(fmt.Sprintf("join.on[%d].%s", i, side), key, "; events without it never meet any"+c.prefixed(key))
	}
	used := map[string]bool{}
	use := func(path string) {
		root, _, _ := strings.Cut(path, ".")
		used[path], used[root] = true, true
	}
	for _, path := range fieldsOf(b) {
		use(path)
	}
	for _, column := range c.columns {
		if column.Source != b.Source {
			continue
		}
		use(column.From)
		if absent := f.absent(column.From); absent != "" {
			warnings = append(warnings, fmt.Sprintf("column %s: field %s is %s: %s", column.Name, column.From, absent, without(column)))
		}
	}
	unused := slices.DeleteFunc(slices.Clone(f.names), func(name string) bool { return used[name] })
	if len(unused) > 0 {
		events := "the events"
		if b.Source != "" {
			events = b.Source
		}
		warnings = append(warnings, "fields of "+events+" that no column takes are left out: "+listed(unused))
	}
	return warnings
}

// zeroed warns of columns that cannot tell a row without a counterpart from one whose counterpart has the zero value.
func (c *checked) zeroed() []string {
	var warnings []string
	for _, column := range c.columns {
		if c.outer(column.Source) && !mayLack(column) {
			warnings = append(warnings, fmt.Sprintf("column %s: rows without a counterpart in %s have the zero value of %s there, as the column is neither Nullable nor has a DEFAULT",
				column.Name, column.Source, column.Type))
		}
	}
	return warnings
}

// mayLack tells that a column has a value of its own for rows without one.
func mayLack(c *controlv1.SchemaColumn) bool {
	t, err := native.ParseType(c.Type)
	return c.DefaultExpression != "" || err == nil && t.Nullable()
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
