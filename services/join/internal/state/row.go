// Package state keeps the rows of one join lane that wait: found by side and key in the order of their times, and by side in the
// order of their times. What is over a budget of memory goes to a Disk, the oldest times first.
//
// Guaranteed: what it answers depends on the calls alone. Where a row lies, in memory or on disk, makes no difference to any
// answer; rows come in the order of (time, seq) everywhere. The memory that rows take, with all that is needed to find them, is within the
// budget after each Balance, but for what a single row takes. Encoding what is new since the last time and decoding all of it in
// that order rebuilds the same rows.
//
// Not guaranteed: anything after a Disk has failed; the store is of no further use then. It is not for concurrent use.
package state

// Side is a side of the join.
type Side uint8

// The sides.
const (
	Left Side = iota
	Right
)

// Other is the opposite side.
func (s Side) Other() Side { return 1 - s }

// Key is the fingerprint of a join key. The zero key is no key: such rows are not kept.
type Key [2]uint64

// Row is a row that waits. Cells are valid until the store is changed.
type Row struct {
	Side      Side
	Matched   bool
	Key       Key
	TimeMS    int64
	Seq       uint64 // number of the row in its lane: tells rows of one time apart, in the order of the log
	Partition int32
	Offset    int64
	Revision  uint64 // schema revision of the cells
	Cells     []byte

	// Born is the bucket of log time in which the row was last written to the checkpoint.
	Born uint32
	// place is the number of the slot in memory plus one; 0 = on disk.
	place int32
}

// before is the order of rows: by time, then by number.
func before(time int64, seq uint64, otherTime int64, otherSeq uint64) bool {
	return time < otherTime || time == otherTime && seq < otherSeq
}

// Disk keeps rows that do not fit into memory. Its content is a cache: nothing outlives Close. Callbacks may change and remove
// the row that they are given, and nothing else; an error of theirs ends the walk and is returned. What they are given is
// valid until they return.
type Disk interface {
	Put(rows []Row) error
	// Key walks the rows of a side and key with from ≤ time ≤ to, Times those of a side.
	Key(side Side, key Key, from, to int64, each func(*Row) error) error
	Times(side Side, from, to int64, each func(*Row) error) error
	// Before is the last row of a side and key before (time, seq).
	Before(side Side, key Key, time int64, seq uint64) (Row, bool, error)
	// Find is the row of a side, key, time and number.
	Find(side Side, key Key, time int64, seq uint64) (Row, bool, error)
	// Replace writes a row anew whose Matched or Born has changed.
	Replace(row *Row) error
	Remove(row *Row) error
	// Bytes is the memory that grows with the number of rows.
	Bytes() int
	Close() error
}
