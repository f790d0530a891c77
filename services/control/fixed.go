package control

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	controlv1 "sluice/gen/sluice/control/v1"
	"sluice/libs/spec"
)

// changes gathers what cannot change in place.
type changes struct {
	problems []spec.Problem
}

func (c *changes) refuse(field string, from, to any, why string) {
	c.problems = append(c.problems, spec.Problem{Field: field, Value: fmt.Sprint(to), What: fmt.Sprintf("cannot change from %v in place: %s", from, why),
		Remedy: "delete the pipeline and create it anew, or create another beside it"})
}

func (c *changes) differ(field, from, to, why string) {
	if from != to {
		c.refuse(field, orNone(from), orNone(to), why)
	}
}

// fixed lists the changes that the state of a pipeline does not survive.
func fixed(from, to *controlv1.Pipeline) []spec.Problem {
	var c changes
	switch {
	case from.GetJoin() == nil && to.GetJoin() == nil:
	case from.GetJoin() == nil:
		c.refuse("join", "none", "set", "the rows of the past are not known")
		return c.problems
	case to.GetJoin() == nil:
		c.refuse("join", "set", "none", "what is on its way through the join would be lost")
		return c.problems
	default:
		names, toNames := strings.Join(slices.Sorted(maps.Keys(from.Sources)), ", "), strings.Join(slices.Sorted(maps.Keys(to.Sources)), ", ")
		if c.differ("sources", names, toNames, "positions and state go by the names"); names != toNames {
			return c.problems
		}
		c.join(from.Join, to.Join)
	}
	// By name: what is on which side may be wrong in the new one.
	for _, b := range spec.Branches(from) {
		if next, ok := spec.BranchOf(to, b.Source); ok {
			c.kafka(b.Field()+".kafka", b.Spec.GetKafka(), next.Spec.GetKafka())
		}
	}
	ch, toCH := from.GetSink().GetClickhouse(), to.GetSink().GetClickhouse()
	const written = "what is written to the one cannot be taken for written to the other"
	c.differ("sink.clickhouse.database", ch.GetDatabase(), toCH.GetDatabase(), written)
	c.differ("sink.clickhouse.table", ch.GetTable(), toCH.GetTable(), written)
	for _, b := range spec.Branches(from) {
		next, ok := spec.BranchOf(to, b.Source)
		if !ok {
			continue
		}
		at := "dedup"
		if b.Source != "" {
			at = b.Field() + ".dedup"
			c.differ(b.Field()+".time", b.Time, next.Time, "rows that wait have their times by it")
		}
		c.dedup(at, b.Dedup, next.Dedup)
	}
	return c.problems
}

func (c *changes) kafka(at string, from, to *controlv1.KafkaSource) {
	const positions = "positions and state belong to it"
	c.differ(at+".topic", from.GetTopic(), to.GetTopic(), positions)
	c.differ(at+".group", from.GetGroup(), to.GetGroup(), positions)
	c.differ(at+".start", from.GetStart(), to.GetStart(), "the pipeline has begun")
}

func (c *changes) dedup(at string, from, to *controlv1.Dedup) {
	switch {
	case from == nil && to == nil:
	case from == nil:
		c.refuse(at, "none", "set", "the keys of the past are not known")
	case to == nil:
		c.refuse(at, "set", "none", "what is on its way through dedup would be lost")
	default:
		const state = "the remembered keys were made with it"
		if !slices.Equal(from.Key, to.Key) {
			c.refuse(at+".key", strings.Join(from.Key, ", "), strings.Join(to.Key, ", "), state)
		}
		c.differ(at+".keep", from.Keep.String(), to.Keep.String(), state)
		c.differ(at+".version", from.Version, to.Version, state)
		c.differ(at+".time", from.Time, to.Time, state)
	}
}

// join allows what the join can change over to from one message to the next: its durations and its memory. The rest says what the rows
// that wait are.
func (c *changes) join(from, to *controlv1.Join) {
	c.differ("join.left", from.GetLeft(), to.GetLeft(), "rows wait for the other side")
	c.differ("join.right", from.GetRight(), to.GetRight(), "rows wait for the other side")
	if on, toOn := pairs(from), pairs(to); on != toOn {
		c.refuse("join.on", on, toOn, "the rows that wait were put into lanes by it")
	}
	const repeat = "rows that wait were kept for it"
	c.differ("join.kind", from.GetKind().String(), to.GetKind().String(), repeat)
	c.differ("join.type", from.GetType().String(), to.GetType().String(), repeat)
}

func pairs(j *controlv1.Join) string {
	var texts []string
	for _, on := range j.GetOn() {
		texts = append(texts, on.GetLeft()+" = "+on.GetRight())
	}
	return strings.Join(texts, ", ")
}

func orNone(text string) string {
	if text == "" {
		return "none"
	}
	return text
}
