package lanes

import (
	"cmp"
	"slices"
	"time"

	"github.com/zeebo/xxh3"
)

// input is all that a plan depends on.
type input struct {
	view     *view
	instance string
	session  string
	draining bool // this instance gives up everything
	wanted   map[laneID]bool
	running  map[laneID]bool // lanes with a slot: true = it ends already
	lease    time.Duration
	now      time.Time
}

// plan is what this instance is to do now.
type plan struct {
	bury  []string // dead members
	take  []laneID // free lanes to get a lease of
	adopt []laneID // leases that are ours already but nobody works on
	give  []laneID // running lanes to end for others
	drop  []laneID // leases that are ours, without work, and to be released
	clean []laneID // records of nobody, of lanes that nobody wants
}

// makePlan is pure: the same input gives the same plan. All instances compute the same targets from
// the same bucket. The sum of the targets is the number of lanes, and whoever has a target's count
// keeps it: so shares converge, and once they differ by one at most nothing moves.
func makePlan(in input) plan {
	var p plan
	p.bury = in.view.dead(in.session, in.lease, in.now)
	dead := map[string]bool{}
	for _, name := range p.bury {
		dead[name] = true
	}
	owned := map[string]int{}
	var mine, free []laneID
	for id := range in.wanted {
		switch o := in.view.owner(id); o {
		case "":
			free = append(free, id)
		case in.instance:
			mine = append(mine, id)
			fallthrough
		default:
			owned[o]++
		}
	}
	target := target(in, dead, owned)

	// Count per pipeline, to spread each pipeline over the instances too.
	perPipeline := map[string]int{}
	working, idle := []laneID{}, []laneID{}
	keep := 0
	for _, id := range mine {
		ending, running := in.running[id]
		switch {
		case !running:
			idle = append(idle, id)
		case !ending:
			working = append(working, id)
			perPipeline[id.pipeline]++
			keep++
		}
	}
	in.order(idle)
	for _, id := range idle {
		if keep < target {
			p.adopt = append(p.adopt, id)
			perPipeline[id.pipeline]++
			keep++
		} else {
			p.drop = append(p.drop, id)
		}
	}
	in.order(working)
	for ; keep > target && len(working) > 0; keep-- {
		i := pick(working, func(id laneID) int { return -perPipeline[id.pipeline] })
		p.give = append(p.give, working[i])
		perPipeline[working[i].pipeline]--
		working = slices.Delete(working, i, i+1)
	}
	// A lane whose slot still ends (its lease was lost) cannot be taken yet.
	free = slices.DeleteFunc(free, func(id laneID) bool { _, r := in.running[id]; return r })
	in.order(free)
	for ; keep < target && len(free) > 0; keep++ {
		i := pick(free, func(id laneID) int { return perPipeline[id.pipeline] })
		p.take = append(p.take, free[i])
		perPipeline[free[i].pipeline]++
		free = slices.Delete(free, i, i+1)
	}
	for id, l := range in.view.lanes {
		if in.wanted[id] || l.gone {
			continue
		}
		if _, running := in.running[id]; running {
			continue // it ends and is released then
		}
		switch in.view.owner(id) {
		case in.instance:
			p.drop = append(p.drop, id)
		case "":
			p.clean = append(p.clean, id)
		}
	}
	return p
}

// target is the number of lanes that this instance should have.
func target(in input, dead map[string]bool, owned map[string]int) int {
	if in.draining {
		return 0
	}
	names := []string{in.instance}
	for name, m := range in.view.members {
		if name != in.instance && !m.gone && !m.Draining && !dead[name] && m.Session != "" {
			names = append(names, name)
		}
	}
	// Whoever has more keeps more; the name decides between equals.
	slices.SortFunc(names, func(a, b string) int {
		return cmp.Or(cmp.Compare(owned[b], owned[a]), cmp.Compare(a, b))
	})
	share, extra := len(in.wanted)/len(names), len(in.wanted)%len(names)
	if slices.Index(names, in.instance) < extra {
		share++
	}
	return share
}

// order sorts lanes by a hash with the instance's name: instances that take at the same time then
// reach for different lanes.
func (in *input) order(ids []laneID) {
	hash := func(id laneID) uint64 {
		return xxh3.HashString(in.instance+"/"+id.pipeline) + uint64(id.index)*0x9e3779b97f4a7c15
	}
	slices.SortFunc(ids, func(a, b laneID) int {
		return cmp.Or(cmp.Compare(hash(a), hash(b)), cmp.Compare(a.pipeline, b.pipeline), cmp.Compare(a.index, b.index))
	})
}

// pick is the index of the first lane with the lowest weight.
func pick(ids []laneID, weight func(laneID) int) int {
	best := 0
	for i := range ids {
		if weight(ids[i]) < weight(ids[best]) {
			best = i
		}
	}
	return best
}
