package spec

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	controlv1 "sluice/gen/sluice/control/v1"
)

// minJoinMemory is what a lane's state needs before it is worth going to disk.
const minJoinMemory = 1 << 20

// sources checks that there is one source, or two and a join.
func (c *checks) sources(p *controlv1.Pipeline) {
	joins := p.Join != nil || len(p.Sources) > 0
	if !joins {
		if p.Source == nil {
			c.add("source", "", "is missing", remedy("source"))
			return
		}
		if p.Source.Dedup != nil {
			c.add("source.dedup", "", "is only used with a join", "put dedup at the top of the specification")
		}
		if p.Source.Time != "" {
			c.add("source.time", p.Source.Time, "is only used with a join", "leave it out; the field that a dedup window is measured on is dedup.time")
		}
		return
	}
	if p.Source != nil {
		c.add("source", "", "stands beside sources and join", "leave it out, and name both sources under sources")
	}
	if p.Dedup != nil {
		c.add("dedup", "", "does not say of which source it drops duplicates", "put it into the source, such as sources: {orders: {dedup: {key: [order_id], window: 1h}}}")
	}
	if p.Join == nil {
		c.add("join", "", "is missing; sources need it", remedy("join"))
	}
	if len(p.Sources) < 2 {
		c.add("sources", strings.Join(slices.Sorted(maps.Keys(p.Sources)), ", "), "are not two", remedy("sources"))
	}
	for _, name := range slices.Sorted(maps.Keys(p.Sources)) {
		source, field := p.Sources[name], "sources."+name
		c.kafka(field+".kafka", source.GetKafka())
		c.dedup(field+".dedup", source.GetDedup())
		c.eventField(field+".time", source.GetTime())
	}
	c.groups(p)
}

// groups checks that the sources do not share a consumer group, whose members would be given each other's partitions.
func (c *checks) groups(p *controlv1.Pipeline) {
	first := map[string]string{}
	for _, name := range slices.Sorted(maps.Keys(p.Sources)) {
		group := p.Sources[name].GetKafka().GetGroup()
		if group == "" {
			group = DefaultSourceGroup(p.GetId(), name)
		}
		if other, taken := first[group]; taken {
			remedy := "give each source a group of its own, or leave group out"
			if group == DefaultSourceGroup(p.GetId(), name) { // it was left out here
				remedy = "give sources." + other + " another group"
			}
			c.add("sources."+name+".kafka.group", group, "is the group of sources."+other, remedy)
		}
		first[group] = name
	}
}

func (c *checks) join(p *controlv1.Pipeline) {
	j := p.Join
	if j == nil {
		return
	}
	names := slices.Sorted(maps.Keys(p.Sources))
	for _, side := range []struct{ field, name string }{{"join.left", j.Left}, {"join.right", j.Right}} {
		if _, known := p.Sources[side.name]; !known && side.name != "" && len(names) > 0 {
			c.add(side.field, side.name, "is not a source", "give one of "+strings.Join(names, ", "))
		}
	}
	if j.Left != "" && j.Left == j.Right {
		c.add("join.right", j.Right, "is the left source, too", "name two sources; both may read the same topic")
	}
	seen := map[[2]string]int{}
	for i, on := range j.On {
		c.eventField(fmt.Sprintf("join.on[%d].left", i), on.GetLeft())
		c.eventField(fmt.Sprintf("join.on[%d].right", i), on.GetRight())
		pair := [2]string{Path(on.GetLeft()), Path(on.GetRight())}
		if first, again := seen[pair]; again {
			c.add(fmt.Sprintf("join.on[%d]", i), pair[0]+" = "+pair[1], fmt.Sprintf("is already on[%d]", first), "keep one of the two")
			continue
		}
		seen[pair] = i
	}
	if _, known := controlv1.Join_Type_name[int32(j.Type)]; !known {
		c.add("join.type", fmt.Sprint(int32(j.Type)), "is not known", "give INNER or LEFT")
	}
	c.joinTimes(j)
	if j.Memory > 0 && j.Memory < minJoinMemory {
		c.add("join.memory", fmt.Sprint(j.Memory), fmt.Sprintf("is less than %d", minJoinMemory), remedy("join.memory"))
	}
}

func (c *checks) joinTimes(j *controlv1.Join) {
	switch j.Kind {
	case controlv1.Join_KIND_UNSPECIFIED, controlv1.Join_INTERVAL:
		if j.Window == nil {
			c.add("join.window", "", "is missing; kind: INTERVAL needs it", remedy("join.window"))
		}
		if j.Wait != nil {
			c.add("join.wait", formatDuration(j.Wait), "is only used by kind: LOOKUP", "leave it out; INTERVAL waits for window + grace")
		}
	case controlv1.Join_LOOKUP:
	default:
		c.add("join.kind", fmt.Sprint(int32(j.Kind)), "is not known", "give INTERVAL or LOOKUP")
	}
}
