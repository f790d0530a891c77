package control

import (
	"fmt"
	"time"

	controlv1 "sluice/gen/sluice/control/v1"
	"sluice/libs/jsonread"
	"sluice/libs/native"
	"sluice/libs/rows"
	"sluice/libs/spec"
)

// misfit is how many sampled events would be refused for one reason, and what is said of the first of them.
type misfit struct {
	events int
	reason string
}

func (m *misfit) add(reason string) {
	if m.events++; m.events == 1 {
		m.reason = reason
	}
}

// refusedBy counts the sampled events whose value the column does not take, as the ingestor tries it.
func (f *fields) refusedBy(column *controlv1.SchemaColumn) (m misfit) {
	t, err := native.ParseType(column.GetType())
	if err != nil {
		return m
	}
	to := native.NewColumn(t, column.GetDefaultExpression() != "")
	for _, v := range f.found[column.GetFrom()] {
		if err := to.AppendJSON(v); err != nil {
			m.add(err.Error())
		}
		to.Reset()
	}
	return m
}

// misfits warns of columns and fields that some of the sampled events do not fit. What is in none of them is told elsewhere.
func (c *checked) misfits(t topicSide) (warnings []string) {
	f, of := t.fields, ""
	if f.events == 0 {
		return nil
	}
	if t.branch.Source != "" {
		of = " of " + t.branch.Source
	}
	say := func(what string, m misfit) {
		if m.events > 0 {
			warnings = append(warnings, fmt.Sprintf("%s: %d of %d sampled events%s go to the dead letters: %s", what, m.events, len(f.samples), of, m.reason))
		}
	}
	told := map[string]int{}
	for _, column := range c.columns {
		_, _, metadata := spec.Metadata(column.GetFrom())
		if metadata || column.GetSource() != t.branch.Source || f.absent(column.GetFrom()) != "" {
			continue
		}
		what := "column " + column.GetName() + " " + column.GetType()
		if column.GetFrom() != column.GetName() {
			what += " from " + column.GetFrom()
		}
		m := f.refusedBy(column)
		told[column.GetFrom()] = max(told[column.GetFrom()], m.events)
		say(what, m)
	}
	order, byField := t.unfit()
	for _, field := range order {
		switch m := *byField[field]; {
		case field == "":
			say("JSON", m)
		case f.absent(field) == "" && m.events > told[field]:
			say("field "+field, m)
		}
	}
	return warnings
}

// unfit counts the sampled events that are refused whatever the columns are, by field: no JSON, without a key, a time that is none.
func (t topicSide) unfit() (order []string, byField map[string]*misfit) {
	byField = map[string]*misfit{}
	plan, err := rows.NewBranchPlan(&controlv1.Schema{}, t.branch)
	if err != nil {
		return nil, nil
	}
	parser := rows.NewParser(plan)
	for _, event := range t.samples {
		_, reject := parser.Parse(rows.Record{Value: event, TimestampMS: time.Now().UnixMilli()})
		if reject == nil {
			continue
		}
		if byField[reject.Field] == nil {
			order, byField[reject.Field] = append(order, reject.Field), &misfit{}
		}
		byField[reject.Field].add(reject.Reason)
	}
	return order, byField
}

// keep notes what an event has at each path, also nothing. The values are the event's own bytes, which stay.
func (f *fields) keep(paths []string, found []jsonread.Value) {
	for i, v := range found {
		f.found[paths[i]] = append(f.found[paths[i]], v)
	}
}
