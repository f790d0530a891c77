package sink

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"sluice/libs/clickhouse"
	"sluice/libs/lanes"
)

// Missing is no durable step.
func (f *faults) Missing(ctx context.Context, i clickhouse.Insert) ([]int, error) {
	return f.inserter.Missing(ctx, i)
}

func (f *faults) Absent(ctx context.Context, i clickhouse.Insert) ([]int, error) {
	return f.inserter.Absent(ctx, i)
}

// forgetful is a table whose server is killed some times when it has noted the token of a block and not yet the rows.
type forgetful struct {
	inserter
	w     *world
	kills int
	fate  func() error // of the attempt that was killed
}

func (f *forgetful) Insert(ctx context.Context, i clickhouse.Insert) error {
	if f.kills == 0 {
		return f.inserter.Insert(ctx, i)
	}
	f.kills--
	before := f.w.parts()
	if err := f.inserter.Insert(ctx, i); err != nil {
		return err
	}
	table := f.w.database + ".t"
	after := f.w.parts()
	require.NoError(f.w.t, f.w.sql.Exec(ctx, "DETACH TABLE "+table+" SYNC"))
	for path := range after {
		if !before[path] {
			require.NoError(f.w.t, os.RemoveAll(path))
		}
	}
	require.NoError(f.w.t, f.w.sql.Exec(ctx, "ATTACH TABLE "+table))
	return f.fate()
}

// parts are the directories of the table's parts.
func (w *world) parts() map[string]bool {
	w.t.Helper()
	rows, err := w.sql.Query(w.t.Context(), "SELECT path FROM system.parts WHERE active AND database = ?", w.database)
	require.NoError(w.t, err)
	defer rows.Close()
	paths := map[string]bool{}
	for rows.Next() {
		var path string
		require.NoError(w.t, rows.Scan(&path))
		paths[path] = true
	}
	require.NoError(w.t, rows.Err())
	return paths
}

// A table that answers a repeat with success and does not hold the rows gets them, however often that happens, and whoever
// repeats it.
func TestTokenWithoutRows(t *testing.T) {
	const rows = 20
	for _, c := range []struct {
		name string
		heir bool
	}{{name: "repeated by the same"}, {name: "repeated by an heir", heir: true}} {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld(t, 1)
			require.NoError(t, w.sql.Exec(t.Context(), "SYSTEM STOP MERGES "+w.database+".t"))
			events := rowsOf(0, rows)
			w.send(0, events[:rows/2])
			ctx, cancel := context.WithCancelCause(t.Context())
			defer cancel(nil)
			o := newOwner()
			l := w.lane(o, "first", 0, w.js)
			f := &forgetful{inserter: l.inserter, w: w, kills: 3, fate: func() error { return errFault }}
			if c.heir {
				f.kills = 1
				f.fate = func() error { cancel(lanes.ErrLost); return errCrash }
			}
			l.inserter, l.pace = f, pace{time.Millisecond, 10 * time.Millisecond}
			done := make(chan error, 1)
			go func() { done <- l.run(ctx) }()
			if c.heir {
				require.NoError(t, errOrNil(<-done, errCrash, lanes.ErrLost))
				o = newOwner()
				heir := w.lane(o, "heir", 0, w.js)
				heir.inserter, heir.pace = &forgetful{inserter: heir.inserter, w: w, kills: 2, fate: func() error { return errFault }}, l.pace
				ctx, cancel = context.WithCancelCause(t.Context())
				defer cancel(nil)
				go func() { done <- heir.run(ctx) }()
			}
			o.waitFor(t, rows/2)
			w.send(0, events[rows/2:])
			o.waitFor(t, rows)
			cancel(lanes.ErrStopping)
			require.NoError(t, errOrNil(<-done))
			w.eachRowOnce(rows, c.name)
			require.Empty(t, w.letters())
		})
	}
}

// blind is a table whose first answer nobody hears. It knows the block when that comes again; then it cannot be looked at for a while, in which it forgets the token.
type blind struct {
	inserter
	w      *world
	unsaid bool
	looks  int
}

func (b *blind) Insert(ctx context.Context, i clickhouse.Insert) error {
	err := b.inserter.Insert(ctx, i)
	if err == nil && !b.unsaid {
		b.unsaid = true
		return errFault
	}
	return err
}

func (b *blind) Missing(ctx context.Context, i clickhouse.Insert) ([]int, error) {
	if b.looks++; b.looks <= 3 {
		return nil, errors.Join(errFault, b.w.sql.Exec(ctx, "ALTER TABLE "+b.w.database+".t MODIFY SETTING non_replicated_deduplication_window = 0"))
	}
	return b.inserter.Missing(ctx, i)
}

// A block that the table has taken is not sent once more because it cannot be looked at.
func TestTheTableCannotBeLookedAt(t *testing.T) {
	w := newWorld(t, 1)
	o := newOwner()
	l := w.lane(o, "one", 0, w.js)
	b := &blind{inserter: l.inserter, w: w}
	l.inserter, l.pace = b, pace{time.Millisecond, 10 * time.Millisecond}
	stop := start(t, l)
	w.send(0, uniform(0, 100))
	o.waitFor(t, 100)
	require.NoError(t, stop(lanes.ErrStopping))
	require.Equal(t, "100/100", w.table())
	require.Equal(t, 4, b.looks)
	w.balances("")
}

// watched looks, whenever a block has been inserted, what the position said meanwhile.
type watched struct {
	inserter
	w    *world
	said []string
	want []string
}

func (o *watched) Insert(ctx context.Context, i clickhouse.Insert) error {
	err := o.inserter.Insert(ctx, i)
	p := o.w.position(0).GetPending()
	o.said = append(o.said, fmt.Sprintf("%d-%d", p.GetFirstSequence(), p.GetLastSequence()))
	ids := strings.Split(i.QueryID, "-")
	o.want = append(o.want, strings.Join(ids[len(ids)-2:], "-"))
	return err
}

// While a block is being inserted the position names that block, also when the one before was not advanced over by itself.
func TestPositionNamesTheBlockInFlight(t *testing.T) {
	w := newWorld(t, 1)
	const blocks, rows = 5, 10
	w.record.GetSpec().GetBatch().Rows = rows
	for b := range blocks {
		w.send(0, rowsOf(b*rows, rows))
	}
	o := newOwner()
	l := w.lane(o, "one", 0, w.js)
	seen := &watched{inserter: l.inserter, w: w}
	l.inserter = seen
	ctx, cancel := context.WithCancelCause(t.Context())
	defer cancel(nil)
	done := make(chan error, 1)
	go func() { done <- l.run(ctx) }()
	o.waitFor(t, blocks*rows)
	cancel(lanes.ErrStopping)
	require.NoError(t, errOrNil(<-done))
	require.GreaterOrEqual(t, len(seen.said), blocks)
	require.Equal(t, seen.want, seen.said)
}
