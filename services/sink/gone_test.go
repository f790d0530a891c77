package sink

import (
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	controlv1 "sluice/gen/sluice/control/v1"
	stagev1 "sluice/gen/sluice/stage/v1"
	"sluice/libs/lanes"
)

// A column is dropped from the table and another renamed while rows that have them wait. The lane says so, and once the pipeline is without them too, the rows
// are written: what was renamed under its new name.
func TestColumnsThatAreGone(t *testing.T) {
	w := newWorld(t, 1)
	require.NoError(t, w.sql.Exec(t.Context(), "ALTER TABLE "+w.database+".t DROP COLUMN text, RENAME COLUMN n TO m"))
	o := newOwner()
	stop := w.start(o, "one", 0, w.js)
	events := rowsOf(0, 20)
	sum := int64(0)
	for i := range events {
		n := i + 100
		events[i].N = &n
		sum += int64(n)
	}
	w.send(0, events[:10])
	require.Eventually(t, func() bool {
		s := o.snapshot()
		return s.GetCondition() == stagev1.UnitStatus_WAITING && strings.Contains(s.GetLastError(), "take it out of the pipeline")
	}, patience, 5*time.Millisecond)
	require.NoError(t, stop(lanes.ErrStopping))
	require.Equal(t, "0/0", w.table())

	w.record.Schemas = append(w.record.Schemas, &controlv1.Schema{Revision: 2, Columns: []*controlv1.SchemaColumn{
		{Name: "id", Type: "UInt64", From: "id"}, {Name: "m", Type: "Int32", From: "n", DefaultExpression: "7"},
	}})
	o = newOwner()
	stop = w.start(o, "two", 0, w.js)
	w.send(0, events[10:])
	o.waitFor(t, 20)
	require.NoError(t, stop(lanes.ErrStopping))
	require.Equal(t, "20/20", w.table())
	var got int64
	require.NoError(t, w.sql.QueryRow(t.Context(), "SELECT sum(m) FROM "+w.database+".t").Scan(&got))
	require.Equal(t, sum, got)
	require.Empty(t, w.letters())
}
