package join

import (
	"encoding/binary"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	controlv1 "sluice/gen/sluice/control/v1"
	eventv1 "sluice/gen/sluice/event/v1"
	"sluice/libs/checkpoint"
	"sluice/libs/lanes"
	"sluice/services/join/internal/state"
)

// TestUpdateBetweenLeftAndRight: rows from before and after an update of the columns are laid out by the newest revision that was read, with all that it has a place for.
func TestUpdateBetweenLeftAndRight(t *testing.T) {
	w := newWorld(t, nil)
	w.record.Schemas = append(w.record.Schemas,
		&controlv1.Schema{Revision: 2, Columns: []*controlv1.SchemaColumn{ // amount is gone, city is new, plan has no DEFAULT, order has one
			{Name: "city", Type: "String", Source: "users"},
			{Name: "plan", Type: "LowCardinality(String)", Source: "users"},
			{Name: "order", Type: "String", Source: "orders", DefaultExpression: "'?'"},
			{Name: "age", Type: "UInt8", Source: "users"},
			{Name: "note", Type: "Nullable(String)", Source: "orders"},
		}},
		&controlv1.Schema{Revision: 3, Columns: []*controlv1.SchemaColumn{ // age and plan have other types
			{Name: "order", Type: "String", Source: "orders"},
			{Name: "age", Type: "Int64", Source: "users"},
			{Name: "plan", Type: "Nullable(String)", Source: "users", DefaultExpression: "'none'"},
		}})
	orders, users := w.producer("orders", 0), w.producer("users", 0)
	users.send(user(100_000, "ann", `"Ann"`, 31, `"pro"`), user(100_000, "bob", "", 32, ""))
	orders.send(order(100_000, "ann", "o1", 5))
	orders.revision = 2
	orders.send(event{100_000, "ann", []string{`"o2"`, ""}}, event{100_000, "bob", []string{"", `"n"`}})
	orders.revision = 3
	orders.send(event{100_000, "ann", []string{`"o3"`}})
	orders.revision = 1
	orders.send(order(100_000, "bob", "o4", 7)) // of an ingestor that has not heard of the update yet
	o := newOwner()
	stop := w.running(o, w.js, 20*time.Millisecond)
	w.covered(o)
	require.NoError(t, stop(lanes.ErrStopping))
	rows, messages := w.output()
	require.Equal(t, []string{"o1 Ann 5 31 pro", " pro o2 31 NULL", " DEFAULT 32 n", "o3 31 pro", "o4 32 DEFAULT"}, untrimmed(rows))
	var revisions []uint64
	for _, m := range messages {
		revisions = append(revisions, m.SchemaRevision)
	}
	require.Equal(t, []uint64{1, 2, 3}, slices.Compact(revisions))
}

// TestDroppedColumn: once an update is heard of, with rows or without, no row that has waited since before it carries a column that the table may no longer have, whatever
// happens to the lane between the two.
func TestDroppedColumn(t *testing.T) {
	w := newWorld(t, nil)
	w.record.Schemas = append(w.record.Schemas, &controlv1.Schema{Revision: 2, Columns: []*controlv1.SchemaColumn{
		{Name: "order", Type: "String", Source: "orders"},
		{Name: "age", Type: "UInt8", Source: "users"},
	}})
	orders, users := w.producer("orders", 0), w.producer("users", 0)
	orders.send(order(100_000, "ann", "o1", 5), order(100_000, "bob", "o2", 6))
	run := func(cause error) {
		o := newOwner()
		stop := w.running(o, w.js, time.Hour)
		w.covered(o)
		_ = stop(cause)
	}
	run(lanes.ErrStopping)
	users.revision = 2
	users.idle(time.Second)
	run(lanes.ErrStopping) // the checkpoint alone knows of the update from here on
	users.revision = 1
	users.send(user(101_000, "bob", `"Bob"`, 32, ""), user(200_000, "cy", "", 33, ""))
	orders.send(order(200_000, "dan", "o3", 7))
	run(lanes.ErrLost)
	run(lanes.ErrLost) // all is in the log
	rows, messages := w.output()
	require.Equal(t, []string{"o2 32", "o1 0"}, texts(rows))
	for _, m := range messages {
		require.EqualValues(t, 2, m.SchemaRevision)
	}
}

// TestUnfitValues: a value of a row that has waited which does not fit the column's new type makes a letter that says so, and takes no other along; a replay of what is in the log counts it as before.
func TestUnfitValues(t *testing.T) {
	w := newWorld(t, nil)
	w.record.Schemas = append(w.record.Schemas, &controlv1.Schema{Revision: 2, Columns: []*controlv1.SchemaColumn{
		{Name: "name", Type: "Int64", Source: "users"},
		{Name: "amount", Type: "UInt8", Source: "orders"},
		{Name: "order", Type: "String", Source: "orders"},
	}})
	w.produce("orders", `{"order":"o1"}`, `{"order":"o2"}`, `{"order":"o3"}`)
	w.produce("users", `{"id":"bob","name":"Bob"}`, `{"id":"bob","name":12}`)
	orders, users := w.producer("orders", 0), w.producer("users", 0)
	orders.send(order(100_000, "ann", "o1", 300), order(100_000, "bob", "o2", 200), order(100_000, "cy", "o3", -1))
	users.revision = 2
	users.idle(time.Second)
	users.revision = 1
	users.send(user(100_000, "bob", `"Bob"`, 32, ""), user(100_000, "bob", `"12"`, 32, ""), user(200_000, "cy", "", 33, ""))
	orders.send(order(200_000, "dan", "o4", 7))
	for range 2 { // the second time from the beginning: there is no checkpoint, but all is in the log
		o := newOwner()
		stop := w.running(o, w.js, time.Hour)
		s := w.covered(o)
		require.EqualValues(t, 1, s.GetTally().GetRows())
		require.EqualValues(t, 3, s.GetTally().GetDeadLetters())
		require.Eventually(t, func() bool { return len(w.letters()) >= 3 }, 2*time.Minute, 10*time.Millisecond)
		_ = stop(lanes.ErrLost)
	}
	rows, _ := w.output()
	require.Equal(t, []string{"12 200 o2"}, texts(rows))
	var letters []string
	for _, l := range w.letters() {
		letters = append(letters, fmt.Sprint(l.GetTopic(), " ", l.GetOffset(), " ", l.GetField(), ": ", l.GetReason(), " ", string(l.GetValue())))
	}
	require.Equal(t, []string{
		`users 0 name: column name was Nullable(String) when the row was read and is Int64 now: "Bob" is not an Int64; joined with offset 1 of partition 0 of orders {"id":"bob","name":"Bob"}`,
		`orders 0 amount: column amount was Int64 when the row was read and is UInt8 now: 300 does not fit UInt8 {"order":"o1"}`,
		`orders 2 amount: column amount was Int64 when the row was read and is UInt8 now: -1 does not fit UInt8 {"order":"o3"}`,
	}, letters)
}

// TestStateWithoutRevision: what an earlier version has saved says nothing of the newest revision, but for that of its rows.
func TestStateWithoutRevision(t *testing.T) {
	w := newWorld(t, nil)
	open := func() *core {
		c := newCore(w.record, config{log: slog.New(slog.DiscardHandler)})
		t.Cleanup(func() { require.NoError(t, c.Close()) })
		return c
	}
	before := open()
	before.rows.Insert(state.Row{Key: keyOf("ann"), TimeMS: 100_000, Seq: 1, Revision: 1})
	var m eventv1.Manifest
	chunks := before.Checkpoint(&m)
	segments := func(each func(*eventv1.Segment, []byte) error) error {
		for _, c := range chunks {
			if err := each(nil, c.Data); err != nil {
				return err
			}
		}
		return nil
	}
	before.newest = 7
	for version, newest := range map[byte]uint64{3: 1, 4: 7} {
		m.Core = before.appendState(nil)
		if version == 3 { // three of the settings were not there, either
			kept := 1
			for range 7 {
				_, n := binary.Varint(m.Core[kept:])
				kept += n
			}
			rest := kept
			for range 3 {
				_, n := binary.Varint(m.Core[rest:])
				rest += n
			}
			m.Core = append(append([]byte{version}, m.Core[1:kept]...), m.Core[rest:len(m.Core)-1]...)
		}
		after := open()
		require.NoError(t, after.Restore(t.Context(), &m, segments))
		require.Equal(t, newest, after.newest)
		require.Equal(t, 1, after.rows.Len(state.Left))
	}
	m.Core = m.Core[:1]
	m.Core[0] = stateVersion + 1
	require.ErrorIs(t, open().Restore(t.Context(), &m, segments), checkpoint.ErrFormat)
}

// untrimmed puts the empty first column back that trimming has taken.
func untrimmed(rows []joined) []string {
	out := texts(rows)
	for i := range out {
		if !strings.HasPrefix(out[i], "o") {
			out[i] = " " + out[i]
		}
	}
	return out
}

// TestNewDurations: an update of the durations takes hold between two inputs. What is replayed after a crash is decided as it was before, also when nothing but the
// log tells what had been put out.
func TestNewDurations(t *testing.T) {
	w := newWorld(t, nil) // window 10s
	orders, users := w.producer("orders", 0), w.producer("users", 0)
	orders.send(order(100_000, "ann", "o1", 1))
	users.send(user(111_000, "ann", `"far"`, 1, ""), user(101_000, "ann", `"near"`, 1, ""))
	o := newOwner()
	stop := w.running(o, w.js, time.Hour)
	require.Eventually(t, func() bool {
		rows, _ := w.output()
		return len(rows) == 1
	}, time.Minute, 5*time.Millisecond)
	_ = stop(lanes.ErrLost) // no checkpoint but the one that says which durations hold

	w.record = proto.CloneOf(w.record)
	w.record.Generation, w.record.Spec.Join.Window, w.record.Spec.Join.Grace = 2, durationpb.New(20*time.Second), durationpb.New(time.Second)
	users.send(user(119_000, "ann", `"farther"`, 1, ""))
	for range 2 {
		o = newOwner()
		stop = w.running(o, w.js, time.Hour)
		w.covered(o)
		_ = stop(lanes.ErrLost)
	}
	o = newOwner()
	stop = w.running(o, w.js, time.Hour)
	orders.send(order(122_001, "bob", "o2", 1))
	users.send(user(122_001, "cy", "", 1, ""), user(101_001, "cy", "", 1, ""))
	require.EqualValues(t, 1, w.covered(o).GetTally().GetLate(), "by a grace of 1s")
	require.NoError(t, stop(lanes.ErrStopping))
	rows, _ := w.output()
	require.Equal(t, []string{"o1 near 1 1 DEFAULT", "o1 farther 1 1 DEFAULT"}, texts(rows))
}
