package control

import (
	"cmp"
	"slices"
	"strconv"
	"time"

	controlv1 "sluice/gen/sluice/control/v1"
	eventv1 "sluice/gen/sluice/event/v1"
	stagev1 "sluice/gen/sluice/stage/v1"
	"sluice/libs/spec"
)

// silence is after how long without a word a unit counts as not looked after. Owners report at least
// every 5 s, by clocks that may be some seconds apart from ours.
const silence = 30 * time.Second

// offsets is where the partitions of a topic begin and end now.
type offsets struct {
	topicID       [16]byte
	earliest, end map[int32]int64
}

// addUp makes the status of a pipeline of its record, of the offsets in Kafka by source (nil: unknown) and of
// what its units have reported. It is a pure function.
//
// The lag: the offsets must have been read before the reports. Then every count is of the same moment
// or later than the end that it is held against, and what one unit has reported late is counted by
// the unit before it or after it: a record is at worst counted as still on its way when it is settled
// already, never the other way round. So the parts may be negative, each for itself, and only their
// sum is clamped.
func addUp(rec *controlv1.PipelineRecord, at map[string]*offsets, units []*stagev1.UnitStatus, now time.Time) summed {
	st := &controlv1.PipelineStatus{Id: rec.GetSpec().GetId(), Guarantee: rec.GetGuarantee()}
	order := spec.Stages(rec.Spec)
	sum := map[string]*counts{}
	for _, stage := range order {
		sum[stage] = &counts{}
	}
	ingest := map[unitName]*stagev1.UnitStatus{}
	var troubles troubles
	owned := map[unitName]bool{}
	count := func(stage string, t *eventv1.Tally) {
		c := sum[stage]
		c.records += t.GetRecords()
		c.rows += t.GetRows()
		st.DeadLetters += max(t.GetDeadLetters(), t.GetLate())
		switch stage {
		case spec.StageIngest:
			st.RecordsIn += t.GetRecords()
			st.Tombstones += t.GetTombstones()
		case spec.StageDedup:
			st.Duplicates += t.GetDuplicates()
		case spec.StageJoin:
			st.Matched += t.GetMatched()
			st.Unmatched += t.GetUnmatched()
			st.Late += t.GetLate()
			st.Dropped += t.GetDropped()
		case spec.StageSink:
			st.RowsOut += t.GetRows()
			c.settled += t.GetRows() + t.GetDeadLetters()
		}
	}
	for stage, t := range rec.GetDrained() {
		if sum[stage] != nil {
			count(stage, t)
		}
	}
	for _, u := range units {
		if sum[u.Stage] == nil {
			continue // of a stage that the pipeline does not have
		}
		if _, live := spec.LaneSetOf(rec, int(u.GetUnit())); u.Stage != spec.StageIngest && !live {
			continue // of lanes that are drained and gone: counted above
		}
		count(u.Stage, u.GetTally())
		st.StateKeys += u.GetStateKeys()
		st.StateBytes += u.GetStateBytes()
		switch u.Stage {
		case spec.StageIngest:
			ingest[nameOf(u)] = u
		case spec.StageJoin:
			addWaiting(st, u)
		}
		working := u.Condition != stagev1.UnitStatus_STOPPED && u.Condition != stagev1.UnitStatus_CONDITION_UNSPECIFIED
		if working && u.Owner != "" {
			owned[nameOf(u)] = true
		}
		if working && u.LastError != "" {
			troubles.add(nameOf(u), fieldsOfSource(u.Source, u.LastError))
		} else if working && u.UpdateTime != nil && now.Sub(u.UpdateTime.AsTime()) > silence {
			troubles.add(nameOf(u), "no word from its owner "+u.Owner+" for more than "+silence.String())
		}
		st.Lanes = append(st.Lanes, &controlv1.LaneStatus{
			Stage: u.Stage, Unit: nameOf(u).String(), Owner: u.Owner,
			Position: strconv.FormatUint(u.Position, 10), Lag: u.Lag,
			StateKeys: u.StateKeys, StateBytes: u.StateBytes, LastError: fieldsOfSource(u.Source, u.LastError),
			BufferedRows: u.BufferedRows, Watermarks: watermarks(u.WatermarkMs),
		})
	}
	slices.SortStableFunc(st.Lanes, func(a, b *controlv1.LaneStatus) int {
		return cmp.Compare(slices.Index(order, a.Stage), slices.Index(order, b.Stage))
	})
	st.Errors = troubles.list(order)

	waiting, begun := inKafka(rec, at, ingest)
	// In the logs: what a stage has passed on and the next has not taken; at the end, not written. Rows that wait for a
	// counterpart in the join are taken: they are where they should be, and may be there for days.
	inLogs := int64(0)
	for i, stage := range order {
		if i+1 < len(order) && order[i+1] != spec.StageSink {
			inLogs += int64(sum[stage].rows) - int64(sum[order[i+1]].records)
		} else if i+1 < len(order) {
			inLogs += int64(sum[stage].rows) - int64(sum[spec.StageSink].settled)
		}
	}
	if !begun {
		// Without the counts of a partition (NATS was restarted, or it has a new owner that has not
		// spoken) what the sink has written of it must not be taken for other partitions' records.
		inLogs = max(0, inLogs)
	}
	st.Lag = uint64(max(0, waiting+inLogs))
	st.State = stateOf(rec, at, owned, len(st.Errors) > 0)
	return summed{st, waiting, inLogs, begun}
}

// summed is a status, with what its lag was made of: records in Kafka and in the logs, and whether all partitions have been begun.
type summed struct {
	*controlv1.PipelineStatus
	waiting, inLogs int64
	begun           bool
}

// inKafka is how many records wait in Kafka; begun: all partitions have been begun.
func inKafka(rec *controlv1.PipelineRecord, at map[string]*offsets, ingest map[unitName]*stagev1.UnitStatus) (waiting int64, begun bool) {
	begun = true
	for source, at := range at {
		for partition, end := range at.end {
			u := ingest[unitName{spec.StageIngest, source, uint32(partition)}]
			waiting += max(0, end-next(startOf(rec, source), at, partition, u))
			begun = begun && len(u.GetTopicId()) > 0
		}
	}
	return waiting, begun
}

type counts struct{ records, rows, settled uint64 }

// next is the offset from which on a partition's records count as not read. A partition that nobody
// has begun, or whose topic was made anew since, counts from where it will begin.
func next(start *controlv1.StartOffsets, at *offsets, partition int32, u *stagev1.UnitStatus) int64 {
	earliest := at.earliest[partition]
	if string(u.GetTopicId()) == string(at.topicID[:]) {
		// What Kafka has dropped before it was read cannot be waited for.
		return max(int64(u.Position), earliest)
	}
	if len(u.GetTopicId()) == 0 && string(start.GetTopicId()) == string(at.topicID[:]) {
		if start, ok := start.Offsets[partition]; ok {
			return max(start, earliest)
		}
	}
	return earliest
}

func stateOf(rec *controlv1.PipelineRecord, at map[string]*offsets, owned map[unitName]bool, troubled bool) controlv1.PipelineStatus_State {
	switch rec.Desired {
	case controlv1.DesiredState_DELETING:
		return controlv1.PipelineStatus_DELETING
	case controlv1.DesiredState_PAUSED:
		return controlv1.PipelineStatus_PAUSED
	}
	if troubled || at == nil {
		return controlv1.PipelineStatus_DEGRADED
	}
	for _, stage := range spec.Stages(rec.Spec) {
		if stage == spec.StageIngest {
			for source, at := range at {
				for partition := range at.end {
					if !owned[unitName{stage, source, uint32(partition)}] {
						return controlv1.PipelineStatus_STARTING
					}
				}
			}
			continue
		}
		for _, lane := range spec.CurrentLanes(rec).Lanes() {
			if !owned[unitName{stage: stage, unit: uint32(lane)}] {
				return controlv1.PipelineStatus_STARTING
			}
		}
	}
	return controlv1.PipelineStatus_RUNNING
}

// startOf is where the partitions of a source begin.
func startOf(rec *controlv1.PipelineRecord, source string) *controlv1.StartOffsets {
	if source == "" {
		return rec.GetStartOffsets()
	}
	return rec.GetSourceStartOffsets()[source]
}
