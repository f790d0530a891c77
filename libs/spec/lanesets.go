package spec

import (
	"fmt"

	controlv1 "sluice/gen/sluice/control/v1"
)

// LaneSet is lanes that share events out among them by key: First, First+1, ... A change of the pipeline's lanes begins another set behind
// them, so that a lane's number is never used twice and nothing that is named by it can be taken for another's.
type LaneSet struct {
	First, Count int
}

// Lanes are the numbers of the set's lanes.
func (s LaneSet) Lanes() []int { return numbers(s.First, s.Count) }

// Has tells whether a lane is of the set.
func (s LaneSet) Has(lane int) bool { return lane >= s.First && lane < s.First+s.Count }

// CurrentLanes is the set that takes new events.
func CurrentLanes(rec *controlv1.PipelineRecord) LaneSet {
	sets := laneSets(rec)
	return sets[len(sets)-1]
}

// LanesBefore is the set that the current one replaces, as long as that is not drained and its state taken over; ok is false when there is none.
func LanesBefore(rec *controlv1.PipelineRecord) (set LaneSet, ok bool) {
	sets := laneSets(rec)
	if len(sets) < 2 {
		return LaneSet{}, false
	}
	return sets[len(sets)-2], true
}

// LaneSetOf is the set that a lane belongs to; ok is false when it is of none that is in use.
func LaneSetOf(rec *controlv1.PipelineRecord, lane int) (set LaneSet, ok bool) {
	for _, s := range laneSets(rec) {
		if s.Has(lane) {
			return s, true
		}
	}
	return LaneSet{}, false
}

// LaneSetAndBefore is the set of a lane that is to be worked on, and the one that it has to take over from; Count 0: none.
func LaneSetAndBefore(rec *controlv1.PipelineRecord, lane int) (set, before LaneSet, err error) {
	set, ok := LaneSetOf(rec, lane)
	if !ok {
		return set, before, fmt.Errorf("the pipeline has no lane %d", lane)
	}
	if set == CurrentLanes(rec) {
		before, _ = LanesBefore(rec)
	}
	return set, before, nil
}

// LiveLanes are the lanes that are worked on: those of the current set and of the one that it replaces.
func LiveLanes(rec *controlv1.PipelineRecord) []int {
	var live []int
	for _, s := range laneSets(rec) {
		live = append(live, s.Lanes()...)
	}
	return live
}

// EveryLane are all lanes that the pipeline has ever had.
func EveryLane(rec *controlv1.PipelineRecord) []int {
	current := CurrentLanes(rec)
	return numbers(0, current.First+current.Count)
}

func laneSets(rec *controlv1.PipelineRecord) []LaneSet {
	if len(rec.GetLaneSets()) == 0 {
		return []LaneSet{{0, int(rec.GetSpec().GetLanes())}}
	}
	sets := make([]LaneSet, len(rec.GetLaneSets()))
	for i, s := range rec.GetLaneSets() {
		sets[i] = LaneSet{int(s.GetFirst()), int(s.GetCount())}
	}
	return sets
}

func numbers(first, count int) []int {
	lanes := make([]int, count)
	for i := range lanes {
		lanes[i] = first + i
	}
	return lanes
}
