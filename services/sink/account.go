package sink

import (
	"math/bits"

	"sluice/libs/batch"
	"sluice/libs/ledger"
	"sluice/libs/native"
	"sluice/services/sink/internal/block"
)

// account is what the ledger needs to know of the rows of a group: where they come from, and their hashes.
type account struct {
	runs []run // in the order of the rows
	// hashes has one for each row, once the block is complete.
	hashes []uint64
	// What is hashed: columns that all rows have, of types whose values come back from the table as they were sent.
	names   []string
	columns []*native.Column
}

// run is rows one after the other that come from one partition.
type run struct {
	end         int // first row of the group that is not in it
	partition   int32
	first, last int64 // offsets of its rows lie between them
}

// hash takes a column into the hashes if its values can be hashed.
func (a *account) hash(name string, c *native.Column) {
	if native.Hashable(c.DataType()) == nil {
		a.names, a.columns = append(a.names, name), append(a.columns, c)
	}
}

func (a *account) reset() { a.runs, a.hashes = a.runs[:0], a.hashes[:0] }

// add notes where the rows of a message come from that keep (nil: all) takes into the group, which has end rows then.
func (a *account) add(v *batch.View, keep []byte, end int) {
	if len(v.Origins) > 0 {
		a.addOrigins(v, keep)
		return
	}
	first, last := 0, v.Rows-1
	if keep != nil {
		first, last = ends(keep)
	}
	a.extend(run{end, v.Partition, v.Offset(first), v.Offset(last)})
}

// addOrigins notes the left records of rows of a join, each of which may be of another partition.
func (a *account) addOrigins(v *batch.View, keep []byte) {
	at := 0
	if len(a.runs) > 0 {
		at = a.runs[len(a.runs)-1].end
	}
	for row := range v.Rows {
		if keep != nil && keep[row/8]>>(row%8)&1 == 0 {
			continue
		}
		at++
		o := v.Origin(row)
		a.extend(run{at, o.LeftPartition, o.LeftOffset, o.LeftOffset})
	}
}

func (a *account) extend(r run) {
	if n := len(a.runs); n > 0 && a.runs[n-1].partition == r.partition {
		last := &a.runs[n-1]
		last.end, last.first, last.last = r.end, min(last.first, r.first), max(last.last, r.last)
		return
	}
	a.runs = append(a.runs, r)
}

// ends are the first and the last row in a bitmap that is not empty.
func ends(keep []byte) (first, last int) {
	low, high := 0, len(keep)-1
	for keep[low] == 0 {
		low++
	}
	for keep[high] == 0 {
		high--
	}
	return low*8 + bits.TrailingZeros8(keep[low]), high*8 + bits.Len8(keep[high]) - 1
}

// complete hashes the rows, of which there will be no more.
func (a *account) complete(rows int) {
	a.hashes = native.HashRows(a.hashes[:0], rows, a.names, a.columns)
}

// enter puts a range of the rows into a ledger, as written or as refused.
func (a *account) enter(into *ledger.Ledger, r block.Range, refused bool) {
	row := r.From
	for _, run := range a.runs {
		if run.end <= row {
			continue
		}
		if row >= r.To {
			return
		}
		end := min(run.end, r.To)
		if refused {
			into.RefuseRows(run.partition, run.first, run.last, end-row)
		} else {
			into.AddRows(run.partition, run.first, run.last, a.hashes[row:end])
		}
		row = end
	}
}
