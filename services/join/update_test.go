package join

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	controlv1 "sluice/gen/sluice/control/v1"
	"sluice/libs/lanes"
)

// TestUpdateBetweenLeftAndRight: a pair of rows from before and after an update of the columns.
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
		&controlv1.Schema{Revision: 3, Columns: []*controlv1.SchemaColumn{ // age has another type
			{Name: "order", Type: "String", Source: "orders"},
			{Name: "age", Type: "Int64", Source: "users"},
		}})
	orders, users := w.producer("orders", 0), w.producer("users", 0)
	users.send(user(100_000, "ann", `"Ann"`, 31, `"pro"`), user(100_000, "bob", "", 32, ""))
	orders.send(order(100_000, "ann", "o1", 5))
	orders.revision = 2
	orders.send(event{100_000, "ann", []string{`"o2"`, ""}}, event{100_000, "bob", []string{"", `"n"`}})
	orders.revision = 3
	orders.send(event{100_000, "ann", []string{`"o3"`}})
	o := newOwner()
	stop := w.running(o, w.js, 20*time.Millisecond)
	w.covered(o)
	require.NoError(t, stop(lanes.ErrStopping))
	rows, messages := w.output()
	require.Equal(t, []string{"o1 Ann 5 31 pro", " pro o2 31 NULL", " DEFAULT 32 n", "o3 Ann 0 31 pro"}, untrimmed(rows))
	var revisions []uint64
	for _, m := range messages {
		revisions = append(revisions, m.SchemaRevision)
	}
	require.Equal(t, []uint64{1, 2, 1}, slices.Compact(revisions))
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
