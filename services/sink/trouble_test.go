package sink

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/proto"

	stagev1 "sluice/gen/sluice/stage/v1"
	"sluice/libs/lanes"
)

// What can be wrong with a table or a server, made on the engine: the lane waits and says why, no event is given up for it,
// and everything arrives once it is mended.
func TestWaitsOutTroubleOfTheTable(t *testing.T) {
	const create = `CREATE TABLE %s.t (id UInt64, text String, n Int32 DEFAULT 7) ENGINE = MergeTree ORDER BY id
		SETTINGS non_replicated_deduplication_window = 1000`
	for _, c := range []struct {
		name       string
		spoil      []string
		settings   map[string]string // of the sink, while it is spoilt
		says       string
		mend       []string
		lostBefore bool // the rows of before are gone with the table
	}{
		{name: "too many parts",
			spoil: []string{"SYSTEM STOP MERGES %[1]s.t", "INSERT INTO %[1]s.t (id, text) VALUES (900001, '')", "ALTER TABLE %[1]s.t MODIFY SETTING parts_to_throw_insert = 1, parts_to_delay_insert = 1"},
			says:  "too many parts",
			mend:  []string{"ALTER TABLE %[1]s.t RESET SETTING parts_to_throw_insert, parts_to_delay_insert", "SYSTEM START MERGES %[1]s.t", "DELETE FROM %[1]s.t WHERE id = 900001"}},
		{name: "short of memory", settings: map[string]string{"max_memory_usage": "1000", "max_untracked_memory": "0"}, says: "short of memory"},
		{name: "too slow", spoil: []string{"ALTER TABLE %[1]s.t ADD COLUMN slow UInt8 MATERIALIZED sleepEachRow(0.1)"},
			settings: map[string]string{"max_execution_time": "0.2"}, says: "time limit",
			mend: []string{"ALTER TABLE %[1]s.t DROP COLUMN slow"}},
		{name: "read only", settings: map[string]string{"readonly": "1"}, says: "read"},
		{name: "dropped, and made anew", spoil: []string{"DROP TABLE %[1]s.t SYNC"}, says: "does not exist", mend: []string{create}, lostBefore: true},
		{name: "detached", spoil: []string{"DETACH TABLE %[1]s.t SYNC"}, says: "does not exist", mend: []string{"ATTACH TABLE %[1]s.t"}},
		{name: "database dropped", spoil: []string{"DROP DATABASE %[1]s SYNC"}, says: "does not exist", mend: []string{"CREATE DATABASE %[1]s", create}, lostBefore: true},
		{name: "column dropped", spoil: []string{"ALTER TABLE %[1]s.t DROP COLUMN text"}, says: "column", mend: []string{"ALTER TABLE %[1]s.t ADD COLUMN text String AFTER id"}},
		{name: "column retyped", spoil: []string{"ALTER TABLE %[1]s.t DROP COLUMN text", "ALTER TABLE %[1]s.t ADD COLUMN text UInt8"}, says: "changed",
			mend: []string{"ALTER TABLE %[1]s.t DROP COLUMN text", "ALTER TABLE %[1]s.t ADD COLUMN text String"}},
		{name: "view that fails", spoil: []string{"CREATE TABLE %[1]s.target (id UInt8) ENGINE = MergeTree ORDER BY id",
			"CREATE MATERIALIZED VIEW %[1]s.v TO %[1]s.target AS SELECT throwIf(id >= 0) AS id FROM %[1]s.t"},
			says: "view", mend: []string{"DROP TABLE %[1]s.v SYNC"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld(t, 1)
			exec := func(statements []string) {
				for _, sql := range statements {
					require.NoError(t, w.sql.Exec(t.Context(), fmt.Sprintf(sql, w.database)), sql)
				}
			}
			o := newOwner()
			stop := w.start(o, "one", 0, w.js)
			w.send(0, uniform(0, 10))
			o.waitFor(t, 10)
			require.NoError(t, stop(lanes.ErrStopping))

			exec(c.spoil)
			healthy := w.record
			w.record = proto.CloneOf(healthy)
			w.record.GetSpec().GetSink().GetClickhouse().Settings = c.settings
			o = newOwner()
			stop = w.start(o, "two", 0, w.js)
			w.send(0, uniform(10, 10))
			require.Eventually(t, func() bool { return o.snapshot().GetCondition() == stagev1.UnitStatus_WAITING }, patience, time.Millisecond)
			require.Contains(t, o.snapshot().GetLastError(), c.says)
			require.Zero(t, o.snapshot().GetTally().GetDeadLetters())
			exec(c.mend)
			if c.settings != nil { // the user changes the pipeline
				require.NoError(t, stop(lanes.ErrStopping))
				w.record = healthy
				o = newOwner()
				stop = w.start(o, "three", 0, w.js)
			}
			o.waitFor(t, 20)
			want := "20/20"
			if c.lostBefore {
				want = "10/10"
			}
			require.Equal(t, want, w.table())
			require.Empty(t, w.letters())
			require.NoError(t, stop(lanes.ErrStopping))
		})
	}
}

// A column that is added under a running pipeline gets its default; nobody has to do anything.
func TestColumnAddedUnderARunningPipeline(t *testing.T) {
	w := newWorld(t, 1)
	o := newOwner()
	stop := w.start(o, "one", 0, w.js)
	w.send(0, rowsOf(0, 10))
	o.waitFor(t, 10)
	require.NoError(t, w.sql.Exec(t.Context(), "ALTER TABLE "+w.database+".t ADD COLUMN extra String DEFAULT 'x'"))
	w.send(0, rowsOf(10, 10))
	o.waitFor(t, 20)
	require.Equal(t, "20/20", w.table())
	require.Equal(t, "20", w.ask("SELECT toString(countIf(extra = 'x')) FROM "+w.database+".t"))
	require.NoError(t, stop(lanes.ErrStopping))
}

// More partitions in a block than an insert may have: it goes in by parts, and a restart in between goes on with the same.
func TestSplitSurvivesARestart(t *testing.T) {
	w := newWorld(t, 1)
	require.NoError(t, w.sql.Exec(t.Context(), "CREATE TABLE "+w.database+`.parts (id UInt64, text String, n Int32 DEFAULT 7)
		ENGINE = MergeTree ORDER BY id PARTITION BY id SETTINGS non_replicated_deduplication_window = 1000`))
	sink := w.record.GetSpec().GetSink().GetClickhouse()
	sink.Table, sink.Settings = "parts", map[string]string{"max_partitions_per_insert_block": "10"}
	rows := func() string {
		return w.ask("SELECT concat(toString(count()), '/', toString(uniqExact(id))) FROM " + w.database + ".parts")
	}
	w.send(0, uniform(0, 40))
	w.send(0, uniform(40, 1)) // its end is not a restart's to choose
	for at := int64(0); ; at++ {
		f := &faults{JetStream: w.js, at: at, mode: crashed}
		f.what.Store(new(string))
		w.runFaulty(f, 41)
		if !f.hit.Load() {
			break
		}
		// The user raises the limit: the block would go in as a whole now.
		if at == 6 {
			sink.Settings = map[string]string{"max_partitions_per_insert_block": "100"}
		}
	}
	require.Equal(t, "41/41", rows())
	require.Empty(t, w.letters())
	w.balances("")
}
