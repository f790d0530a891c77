package control

import (
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/types/known/timestamppb"

	controlv1 "sluice/gen/sluice/control/v1"
	eventv1 "sluice/gen/sluice/event/v1"
	stagev1 "sluice/gen/sluice/stage/v1"
)

var topicNow = [16]byte{1}

func testRecord(dedup bool) *controlv1.PipelineRecord {
	rec := &controlv1.PipelineRecord{
		Spec: &controlv1.Pipeline{Id: "p", Lanes: 2}, Uid: "u", Desired: controlv1.DesiredState_RUNNING,
	}
	if dedup {
		rec.Spec.Dedup = &controlv1.Dedup{Key: []string{"id"}}
	}
	return rec
}

func report(stage string, unit uint32, position uint64, t *eventv1.Tally) *stagev1.UnitStatus {
	u := &stagev1.UnitStatus{Pipeline: "p", PipelineUid: "u", Stage: stage, Unit: unit, Owner: "o",
		Condition: stagev1.UnitStatus_RUNNING, Position: position, Tally: t}
	if stage == "ingest" {
		u.TopicId = topicNow[:]
	}
	return u
}

// settledUnits is a pipeline that has read 100 records of two partitions: 2 tombstones, 3 dead letters
// of ingest, 10 duplicates, 1 dead letter of dedup, 4 of the sink.
func settledUnits() []*stagev1.UnitStatus {
	return []*stagev1.UnitStatus{
		report("ingest", 0, 60, &eventv1.Tally{Records: 60, Tombstones: 2, Rows: 58}),
		report("ingest", 1, 45, &eventv1.Tally{Records: 40, DeadLetters: 3, Rows: 37}), // 5 offsets are gaps
		report("dedup", 0, 9, &eventv1.Tally{Records: 50, Duplicates: 10, Rows: 40}),
		report("dedup", 1, 9, &eventv1.Tally{Records: 45, DeadLetters: 1, Rows: 44}),
		report("sink", 0, 9, &eventv1.Tally{Records: 40, Rows: 36, DeadLetters: 4}),
		report("sink", 1, 9, &eventv1.Tally{Records: 44, Rows: 44}),
	}
}

func at(end0, end1 int64) map[string]*offsets {
	return map[string]*offsets{"": {topicID: topicNow, earliest: map[int32]int64{0: 0, 1: 0}, end: map[int32]int64{0: end0, 1: end1}}}
}

func TestAddUp(t *testing.T) {
	st := addUp(testRecord(true), at(60, 45), settledUnits(), time.Now())
	require.Equal(t, controlv1.PipelineStatus_RUNNING, st.State)
	require.Zero(t, st.Lag)
	require.EqualValues(t, 100, st.RecordsIn)
	require.EqualValues(t, 2, st.Tombstones)
	require.EqualValues(t, 10, st.Duplicates)
	require.EqualValues(t, 8, st.DeadLetters)
	require.EqualValues(t, 80, st.RowsOut)
	require.Equal(t, st.RecordsIn, st.RowsOut+st.Duplicates+st.DeadLetters+st.Tombstones)
	require.Len(t, st.Lanes, 6)
	require.Equal(t, "ingest", st.Lanes[0].Stage)
	require.Equal(t, "sink", st.Lanes[5].Stage)
	require.Equal(t, "60", st.Lanes[0].Position)
}

func TestLag(t *testing.T) {
	change := func(f func([]*stagev1.UnitStatus)) []*stagev1.UnitStatus {
		units := settledUnits()
		f(units)
		return units
	}
	early := at(60, 45)
	early[""].earliest[0] = 1000 // all that was in Kafka has expired
	early[""].end[0] = 1010
	anew := at(7, 45)
	anew[""].topicID = [16]byte{2}
	starts := testRecord(true)
	starts.StartOffsets = &controlv1.StartOffsets{TopicId: topicNow[:], Offsets: map[int32]int64{0: 55}}
	for _, c := range []struct {
		name  string
		rec   *controlv1.PipelineRecord
		at    map[string]*offsets
		units []*stagev1.UnitStatus
		want  uint64
	}{
		{"in Kafka", testRecord(true), at(63, 45), settledUnits(), 3},
		{"ahead of the end, which was read first", testRecord(true), at(50, 45), settledUnits(), 0},
		{"in the ingest log", testRecord(true), at(60, 45), change(func(u []*stagev1.UnitStatus) { u[2].Tally.Records -= 6; u[2].Tally.Duplicates -= 6 }), 6},
		{"in the dedup log", testRecord(true), at(60, 45), change(func(u []*stagev1.UnitStatus) { u[4].Tally.Rows -= 5 }), 5},
		{"taken but not written", testRecord(true), at(60, 45), change(func(u []*stagev1.UnitStatus) { u[5].Tally.Rows = 40 }), 4},
		{"a partition that nobody has begun", testRecord(true), at(60, 45), settledUnits()[1:], 60},
		{"the same with a start", starts, at(60, 45), settledUnits()[1:], 5},
		{"records that expired before they were read", testRecord(true), early, settledUnits(), 10},
		{"topic made anew", testRecord(true), anew, change(func(u []*stagev1.UnitStatus) {}), 7 + 45},
		{"a new owner that has not spoken yet", testRecord(true), at(60, 45), change(func(u []*stagev1.UnitStatus) { u[0].TopicId, u[0].Tally, u[0].Position = nil, nil, 0 }), 60},
		{"nothing reported at all", testRecord(true), at(60, 45), nil, 105},
	} {
		t.Run(c.name, func(t *testing.T) {
			require.Equal(t, c.want, addUp(c.rec, c.at, c.units, time.Now()).Lag)
		})
	}
}

// TestLagNeverTooSmall: whatever reports are late, a record that is on its way is not counted as
// settled. The pipeline is simulated record by record and each unit's report is from a moment of its own,
// all of them after the end was read.
func TestLagNeverTooSmall(t *testing.T) {
	for seed := range uint64(300) {
		random := rand.New(rand.NewPCG(seed, 0))
		dedup := random.IntN(3) > 0
		var end, read, records, rows, taken, passed, dups, landed, written uint64
		snapshots := [][]*stagev1.UnitStatus{}
		truth := []uint64{} // records not settled, by moment
		for range 200 {
			switch random.IntN(4) {
			case 0:
				end++
			case 1:
				if read < end {
					read++
					records++
					rows++
				}
			case 2:
				if dedup && taken < rows {
					taken++
					if random.IntN(4) == 0 {
						dups++
					} else {
						passed++
					}
				}
			case 3:
				available := rows
				if dedup {
					available = passed
				}
				if landed < available {
					landed++
					written++
				}
			}
			units := []*stagev1.UnitStatus{
				report("ingest", 0, read, &eventv1.Tally{Records: records, Rows: rows}),
				report("dedup", 0, 0, &eventv1.Tally{Records: taken, Duplicates: dups, Rows: passed}),
				report("sink", 0, 0, &eventv1.Tally{Records: landed, Rows: written}),
			}
			if !dedup {
				units = []*stagev1.UnitStatus{units[0], units[2]}
			}
			snapshots = append(snapshots, units)
			truth = append(truth, end-written-dups)
		}
		// The end is the newest; reports are of any moment before or at it. What is settled by then is at
		// least what any of them says.
		last := len(snapshots) - 1
		var mixed []*stagev1.UnitStatus
		for i := range snapshots[last] {
			mixed = append(mixed, snapshots[last-random.IntN(50)][i])
		}
		ends := map[string]*offsets{"": {topicID: topicNow, earliest: map[int32]int64{0: 0}, end: map[int32]int64{0: int64(end)}}}
		rec := testRecord(dedup)
		got := addUp(rec, ends, mixed, time.Now()).Lag
		require.GreaterOrEqual(t, got, truth[last], "seed %d", seed)
		require.Equal(t, truth[last], addUp(rec, ends, snapshots[last], time.Now()).Lag, "seed %d: all at one moment", seed)
	}
}

// TestLagAfterRestartOfNATS: the sinks report again before ingest does; what they have written is not
// held against records that wait.
func TestLagAfterRestartOfNATS(t *testing.T) {
	ends := at(10_000, 10_000)
	ends[""].earliest = map[int32]int64{0: 9_990, 1: 9_990}
	st := addUp(testRecord(true), ends, []*stagev1.UnitStatus{report("sink", 0, 9, &eventv1.Tally{Records: 19_000, Rows: 19_000})}, time.Now())
	require.EqualValues(t, 20, st.Lag)
	require.Equal(t, controlv1.PipelineStatus_STARTING, st.State)
}

func TestState(t *testing.T) {
	all := func() []*stagev1.UnitStatus { return settledUnits() }
	desired := func(d controlv1.DesiredState) *controlv1.PipelineRecord {
		rec := testRecord(true)
		rec.Desired = d
		return rec
	}
	waiting := all()
	waiting[4].Condition, waiting[4].LastError = stagev1.UnitStatus_WAITING, "clickhouse away"
	waiting[5].Condition, waiting[5].LastError = stagev1.UnitStatus_WAITING, "clickhouse away"
	unowned := all()
	unowned[2].Owner, unowned[2].Condition = "", stagev1.UnitStatus_STOPPED
	silent := all()
	silent[3].UpdateTime = timestamppb.New(time.Now().Add(-time.Hour))
	stopped := all()
	for _, u := range stopped {
		u.Owner, u.Condition, u.LastError = "", stagev1.UnitStatus_STOPPED, "of the past"
	}
	for _, c := range []struct {
		name   string
		rec    *controlv1.PipelineRecord
		at     map[string]*offsets
		units  []*stagev1.UnitStatus
		want   controlv1.PipelineStatus_State
		errors string
	}{
		{"running", testRecord(true), at(60, 45), all(), controlv1.PipelineStatus_RUNNING, ""},
		{"no lane owner yet", testRecord(true), at(60, 45), all()[:4], controlv1.PipelineStatus_STARTING, ""},
		{"a partition without owner", testRecord(true), at(60, 45), all()[1:], controlv1.PipelineStatus_STARTING, ""},
		{"a lane given up", testRecord(true), at(60, 45), unowned, controlv1.PipelineStatus_STARTING, ""},
		{"waiting", testRecord(true), at(60, 45), waiting, controlv1.PipelineStatus_DEGRADED, "sink, lanes 0 1: clickhouse away"},
		{"silent", testRecord(true), at(60, 45), silent, controlv1.PipelineStatus_DEGRADED, "dedup, lane 1: no word from its owner o for more than 30s"},
		{"Kafka unknown", testRecord(true), nil, all(), controlv1.PipelineStatus_DEGRADED, ""},
		{"paused", desired(controlv1.DesiredState_PAUSED), at(60, 45), stopped, controlv1.PipelineStatus_PAUSED, ""},
		{"deleting", desired(controlv1.DesiredState_DELETING), at(60, 45), stopped, controlv1.PipelineStatus_DELETING, ""},
		{"of a stage that is not in the pipeline", testRecord(false), at(60, 45), all(), controlv1.PipelineStatus_RUNNING, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			st := addUp(c.rec, c.at, c.units, time.Now())
			require.Equal(t, c.want, st.State)
			require.Equal(t, c.errors, strings.Join(st.Errors, "\n"))
		})
	}
}
