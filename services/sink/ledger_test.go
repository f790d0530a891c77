package sink

import (
	"testing"

	"github.com/stretchr/testify/require"

	eventv1 "sluice/gen/sluice/event/v1"
	"sluice/libs/checkpoint"
	"sluice/libs/lanes"
	"sluice/libs/ledger"
	"sluice/libs/native"
)

// balances: the ledgers of all lanes, added up, have exactly the rows that are in the table, and have counted the dead
// letters.
func (w *world) balances(what string) *ledger.Ledger {
	w.t.Helper()
	sum := ledger.New(native.HashVersion)
	for i := range int(w.record.GetSpec().GetLanes()) {
		p := w.position(i)
		require.NotNil(w.t, p.GetLedger(), what)
		one, err := ledger.Of(p.GetLedger())
		require.NoError(w.t, err)
		require.NoError(w.t, sum.Merge(one))
	}
	rows, checksum := uint64(0), uint64(0)
	for _, h := range w.hashes() {
		rows++
		checksum += h
		sum.Subtract(h)
	}
	total := sum.Total()
	require.Equal(w.t, rows, total.Rows, "rows of the ledger; %s", what)
	missing, extra, complete := sum.Decode()
	require.True(w.t, complete, what)
	require.Empty(w.t, missing, what)
	require.Empty(w.t, extra, what)
	require.Equal(w.t, checksum, total.Checksum, what)
	require.EqualValues(w.t, len(w.letters()), total.Refused, what)
	return sum
}

// hashes are those of the table's rows, over the columns that have no default.
func (w *world) hashes() []uint64 {
	w.t.Helper()
	number, err := native.ParseType("UInt64")
	require.NoError(w.t, err)
	words, err := native.ParseType("String")
	require.NoError(w.t, err)
	ids, texts := native.NewColumn(number, false), native.NewColumn(words, false)
	rows, err := w.sql.Query(w.t.Context(), "SELECT id, text FROM "+w.database+"."+w.record.GetSpec().GetSink().GetClickhouse().GetTable())
	require.NoError(w.t, err)
	defer rows.Close()
	for rows.Next() {
		var id uint64
		var text string
		require.NoError(w.t, rows.Scan(&id, &text))
		require.NoError(w.t, ids.AppendInt(int64(id)))
		require.NoError(w.t, texts.AppendString([]byte(text)))
	}
	require.NoError(w.t, rows.Err())
	return native.HashRows(nil, ids.Rows(), []string{"text", "id"}, []*native.Column{texts, ids})
}

// The ledger of several lanes, with rows in groups, dropped ones and refused ones among them.
func TestLedger(t *testing.T) {
	w := newWorld(t, 2)
	events := rowsOf(0, 900)
	events[7].ID, events[8].ID, events[500].ID = 2_000_007, 2_000_008, 2_000_500
	w.send(0, events, 0, 899)      // offsets 1 to 898 are left
	w.send(1, rowsOf(1000, 10))    // offsets 900 to 909
	w.send(0, rowsOf(2000, 10), 5) // 910 to 919
	w.send(1, rowsOf(3000, 1), 0)  // nothing left
	for i := range 2 {
		o := newOwner()
		stop := w.start(o, "one", i, w.js)
		o.waitFor(t, []int{898 + 9, 10}[i])
		require.NoError(t, stop(lanes.ErrStopping))
	}
	sum := w.balances("")
	p := sum.Partition(0)
	require.Equal(t, []int64{1, 920}, []int64{p.First, p.Next})
	require.EqualValues(t, 3, p.Refused)
}

// A lane whose rows an earlier version has written has no ledger: one that lacks rows would accuse the table.
func TestNoLedgerFromTheMiddle(t *testing.T) {
	w := newWorld(t, 1)
	w.send(0, rowsOf(0, 10))
	kv, err := w.js.KeyValue(t.Context(), checkpoint.Bucket("p"))
	require.NoError(t, err)
	for name, before := range map[string]*eventv1.SinkPosition{
		"rows without a ledger":  {Format: 1, Tally: &eventv1.Tally{Records: 5, Rows: 5}},
		"rows hashed otherwise":  {Format: 1, Tally: &eventv1.Tally{Records: 5, Rows: 5}, Ledger: &eventv1.Ledger{Hash: native.HashVersion + 1}},
		"a block half way in":    {Format: 1, Pending: &eventv1.PendingBlock{PartTo: 1}},
		"a ledger that is wrong": {Format: 1, Ledger: &eventv1.Ledger{Hash: native.HashVersion, Sketch: []byte{1}}},
	} {
		l, err := ledgerOf(before)
		if name == "a ledger that is wrong" {
			require.Error(t, err)
			continue
		}
		require.NoError(t, err)
		require.Nil(t, l, name)
	}
	_, err = kv.Put(t.Context(), positionKey(0), marshal(t, &eventv1.SinkPosition{Format: 1, Tally: &eventv1.Tally{Records: 5, Rows: 5}}))
	require.NoError(t, err)
	o := newOwner()
	stop := w.start(o, "one", 0, w.js)
	o.waitFor(t, 15)
	require.NoError(t, stop(lanes.ErrStopping))
	require.Nil(t, w.position(0).GetLedger())
	require.Equal(t, "10/10", w.table())
}
