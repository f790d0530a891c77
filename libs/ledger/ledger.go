// Package ledger adds up the rows that were written to a table, so that the table can be held against them at any
// time: for each Kafka partition how many rows there are and the sum of their hashes, and a sketch of all hashes, from which a small
// number of differences can be read off. It is a pure data structure.
//
// Guaranteed: a ledger is the same in whatever order rows were added and ledgers merged. What Decode returns as complete is
// exactly the difference between what was added and what was subtracted, but for a chance of 2^-60 or so. Up to 150 different hashes
// (each any number of times) are decoded in all but about one of a thousand cases; from 200 on hardly any.
//
// Not guaranteed: that two rows with the same hash are told apart, and, of the sums alone, anything against
// somebody who makes rows up for their hashes. First and Next bound the offsets of a partition's rows and may lie further apart.
package ledger

import (
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"

	eventv1 "sluice/gen/sluice/event/v1"
)

// ErrHash says that two ledgers hash rows in different ways.
var ErrHash = errors.New("the ledgers hash rows in different ways")

// Partition is what is known of the rows of one Kafka partition.
type Partition struct {
	Rows     uint64
	Checksum uint64 // sum of the rows' hashes, modulo 2^64
	Refused  uint64
	// Offsets of the rows, refused ones too, are in [First, Next). Both are 0 as long as there are none.
	First, Next int64
}

// Ledger is the rows of a lane, or of several that were merged. It is not for concurrent use.
type Ledger struct {
	hash       uint32
	partitions map[int32]*Partition
	sketch     sketch

	last   *Partition // of partition number lastID: rows come in runs
	lastID int32
}

// New returns an empty ledger of rows that are hashed in the given way.
func New(hash uint32) *Ledger {
	return &Ledger{hash: hash, partitions: map[int32]*Partition{}}
}

// Of is the reverse of Proto.
func Of(m *eventv1.Ledger) (*Ledger, error) {
	l := New(m.GetHash())
	if err := l.sketch.decode(m.GetSketch()); err != nil {
		return nil, fmt.Errorf("read a ledger: %w", err)
	}
	for id, p := range m.GetPartitions() {
		if p.GetFirstOffset() < 0 || p.GetNextOffset() < p.GetFirstOffset() || (p.GetFirstOffset() == 0) != (p.GetNextOffset() == 0) {
			return nil, fmt.Errorf("read a ledger: partition %d has offsets from %d to %d", id, p.GetFirstOffset(), p.GetNextOffset())
		}
		l.partitions[id] = &Partition{
			Rows: p.GetRows(), Checksum: p.GetChecksum(), Refused: p.GetRefused(),
			First: max(0, p.GetFirstOffset()-1), Next: p.GetNextOffset(),
		}
	}
	return l, nil
}

// Proto returns the ledger as its message.
func (l *Ledger) Proto() *eventv1.Ledger {
	m := &eventv1.Ledger{Hash: l.hash, Sketch: l.sketch.encode(), Partitions: make(map[int32]*eventv1.PartitionLedger, len(l.partitions))}
	for id, p := range l.partitions {
		out := &eventv1.PartitionLedger{Rows: p.Rows, Checksum: p.Checksum, Refused: p.Refused, NextOffset: p.Next}
		if p.Next != 0 {
			out.FirstOffset = p.First + 1
		}
		m.Partitions[id] = out
	}
	return m
}

// Hash is how the rows are hashed.
func (l *Ledger) Hash() uint32 { return l.hash }

// IDs are the partitions of which something is known, in ascending order.
func (l *Ledger) IDs() []int32 { return slices.Sorted(maps.Keys(l.partitions)) }

// Partition is what is known of one partition.
func (l *Ledger) Partition(id int32) Partition {
	if p := l.partitions[id]; p != nil {
		return *p
	}
	return Partition{}
}

// Total is all partitions together; First and Next, which are no offsets then, are 0.
func (l *Ledger) Total() (t Partition) {
	for _, p := range l.partitions {
		t.Rows += p.Rows
		t.Checksum += p.Checksum
		t.Refused += p.Refused
	}
	return t
}

// Add adds a row that was written.
func (l *Ledger) Add(partition int32, offset int64, hash uint64) {
	l.AddRows(partition, offset, offset, []uint64{hash})
}

// AddRows adds rows of a partition that were written. Their offsets lie between first and last.
func (l *Ledger) AddRows(partition int32, first, last int64, hashes []uint64) {
	if len(hashes) == 0 {
		return
	}
	p := l.of(partition)
	p.Rows += uint64(len(hashes))
	for _, hash := range hashes {
		p.Checksum += hash
		l.sketch.add(hash)
	}
	p.reach(first)
	p.reach(last)
}

// Refuse adds a row that the table did not take.
func (l *Ledger) Refuse(partition int32, offset int64) { l.RefuseRows(partition, offset, offset, 1) }

// RefuseRows adds so many rows of a partition that the table did not take. Their offsets lie between first and last.
func (l *Ledger) RefuseRows(partition int32, first, last int64, rows int) {
	if rows <= 0 {
		return
	}
	p := l.of(partition)
	p.Refused += uint64(rows)
	p.reach(first)
	p.reach(last)
}

// Subtract takes a row, found in the table, out of the sketch. The partitions stay as they are.
func (l *Ledger) Subtract(hash uint64) { l.sketch.change(hash, -1) }

// Merge adds all of other.
func (l *Ledger) Merge(other *Ledger) error {
	if l.hash != other.hash {
		return fmt.Errorf("%w: %d and %d", ErrHash, l.hash, other.hash)
	}
	for id, from := range other.partitions {
		p := l.of(id)
		p.Rows += from.Rows
		p.Checksum += from.Checksum
		p.Refused += from.Refused
		if from.Next != 0 {
			p.reach(from.First)
			p.reach(from.Next - 1)
		}
	}
	l.sketch.merge(&other.sketch)
	return nil
}

// Reset empties the ledger.
func (l *Ledger) Reset() {
	clear(l.partitions)
	l.sketch, l.last = sketch{}, nil
}

// Decode reads the differences off the sketch: the hashes that were added and not subtracted, and the reverse, each as often
// as it differs. It is complete if those are all. There is no order. The ledger stays as it is.
func (l *Ledger) Decode() (missing, extra []uint64, complete bool) {
	return l.sketch.differences()
}

func (l *Ledger) of(id int32) *Partition {
	if l.last != nil && l.lastID == id {
		return l.last
	}
	p := l.partitions[id]
	if p == nil {
		p = &Partition{}
		l.partitions[id] = p
	}
	l.last, l.lastID = p, id
	return p
}

// reach widens the range of offsets. Kafka's offsets begin with 0.
func (p *Partition) reach(offset int64) {
	offset = min(max(offset, 0), math.MaxInt64-1)
	if p.Next == 0 {
		p.First = offset
	}
	p.First, p.Next = min(p.First, offset), max(p.Next, offset+1)
}
