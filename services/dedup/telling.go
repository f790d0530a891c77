package dedup

import (
	eventv1 "sluice/gen/sluice/event/v1"
	"sluice/libs/batch"
	"sluice/libs/fold"
)

// telling decides which lanes get a message of a batch that is taken apart: those that it has rows for, and all of them as often as they must hear how far its
// partition has come. Else a topic of which few rows come at a time would be a message for every lane with each of them. It depends on the log alone, and is part
// of the checkpoint: a replay makes the same messages.
type telling struct {
	everyMS int64 // as spec.Heartbeat; 0: with each batch
	eachMS  int64 // at least so long for each partition of the topic
	told    map[string]told
	shares  []bool // scratch: of which lanes a batch has rows
}

type told struct {
	arrivalMS  int64
	partitions int
}

// lanes returns, for each of so many lanes, whether it gets a message of the batch.
func (t *telling) lanes(in fold.Input, of int) []bool {
	v := in.View
	t.shares = append(t.shares[:0], make([]bool, of)...)
	if t.all(in.Writer, v) {
		for share := range t.shares {
			t.shares[share] = true
		}
		return t.shares
	}
	for row := range v.Rows {
		if v.Selected > 0 && v.Selects(row) {
			t.shares[batch.Share(v.JoinKey(row)[0], of)] = true
		}
	}
	return t.shares
}

// all tells whether every lane is to hear of the batch, and that it has.
func (t *telling) all(writer string, v *batch.View) bool {
	now, last := told{v.ArrivalMS, v.Progress.Partitions}, t.told[writer]
	since := now.arrivalMS - last.arrivalMS // less than 0: by another clock
	if v.Rows > 0 && now.partitions == last.partitions && since >= 0 && since < max(t.everyMS, t.eachMS*int64(now.partitions)) {
		return false
	}
	t.told[writer] = now
	return true
}

func (t *telling) saved() *eventv1.Telling {
	if t.everyMS == 0 {
		return nil
	}
	out := &eventv1.Telling{EveryMs: t.everyMS, EachMs: t.eachMS, Told: make(map[string]*eventv1.Told, len(t.told))}
	for writer, last := range t.told {
		out.Told[writer] = &eventv1.Told{ArrivalMs: last.arrivalMS, Partitions: uint32(last.partitions)}
	}
	return out
}

func (t *telling) restore(saved *eventv1.Telling) {
	t.everyMS, t.eachMS, t.told = saved.GetEveryMs(), saved.GetEachMs(), map[string]told{}
	for writer, last := range saved.GetTold() {
		t.told[writer] = told{last.GetArrivalMs(), int(last.GetPartitions())}
	}
}
