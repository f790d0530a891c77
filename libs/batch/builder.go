package batch

import (
	"encoding/binary"
	"math"
)

// Builder collects the rows of one writer for one lane until they are encoded. Its buffers are
// used anew after Reset. The columns themselves are the caller's.
type Builder struct {
	rows        int
	firstOffset int64
	lastOffset  int64
	keys        []byte
	times       []byte
	offsets     []byte
	versions    []byte
	joinKeys    []byte
	eventTimes  []byte
	scratch     Scratch
}

// Scratch is memory that a View needs besides its Builder's, until it is appended. Builders that are encoded one after the other may share it:
// what is used again soon is still in the processor's cache.
type Scratch struct {
	raw        []byte
	compressed []byte
}

// Size is how many bytes it holds.
func (s *Scratch) Size() int { return cap(s.raw) + cap(s.compressed) }

// Row is what the middle stages need to know of an event.
type Row struct {
	Offset  int64
	Key     [2]uint64 // low word first
	TimeMS  int64
	Version uint64
	JoinKey [2]uint64 // low word first; zero = none
	EventMS int64
}

// Fields says which of the per-row fields a batch carries.
type Fields struct {
	Keys, Versions bool
	Join           bool // join keys and event times
}

// Fits tells whether a row of that offset can still join the batch: offsets are kept relative to
// the first, in 32 bits, and rise.
func (b *Builder) Fits(offset int64) bool {
	return b.rows == 0 || (offset > b.lastOffset && offset-b.firstOffset <= math.MaxUint32 && b.rows < maxRows)
}

// Add adds a row, which Fits.
func (b *Builder) Add(row Row, fields Fields) {
	if b.rows == 0 {
		b.firstOffset = row.Offset
	}
	b.rows++
	b.lastOffset = row.Offset
	b.offsets = binary.LittleEndian.AppendUint32(b.offsets, uint32(row.Offset-b.firstOffset))
	if fields.Join {
		b.joinKeys = binary.LittleEndian.AppendUint64(b.joinKeys, row.JoinKey[0])
		b.joinKeys = binary.LittleEndian.AppendUint64(b.joinKeys, row.JoinKey[1])
		b.eventTimes = binary.LittleEndian.AppendUint64(b.eventTimes, uint64(row.EventMS))
	}
	if !fields.Keys {
		return
	}
	b.keys = binary.LittleEndian.AppendUint64(b.keys, row.Key[0])
	b.keys = binary.LittleEndian.AppendUint64(b.keys, row.Key[1])
	b.times = binary.LittleEndian.AppendUint64(b.times, uint64(row.TimeMS))
	if fields.Versions {
		b.versions = binary.LittleEndian.AppendUint64(b.versions, row.Version)
	}
}

// SetTimes gives all rows the same dedup time: the time of arrival is known when the batch is done.
func (b *Builder) SetTimes(ms int64) {
	for at := 0; at < len(b.times); at += TimeBytes {
		binary.LittleEndian.PutUint64(b.times[at:], uint64(ms))
	}
}

// Rows is how many rows there are.
func (b *Builder) Rows() int { return b.rows }

// FirstOffset is the offset of the first row.
func (b *Builder) FirstOffset() int64 { return b.firstOffset }

// Reset forgets the rows and keeps the memory.
func (b *Builder) Reset() {
	b.rows = 0
	b.keys, b.times, b.offsets, b.versions = b.keys[:0], b.times[:0], b.offsets[:0], b.versions[:0]
	b.joinKeys, b.eventTimes = b.joinKeys[:0], b.eventTimes[:0]
}

// View fills v with the rows and their columns; appendColumns appends all columns, each by
// AppendColumn. v is valid until the Builder is used again.
func (b *Builder) View(v *View, appendColumns func([]byte) []byte) {
	b.ViewIn(v, &b.scratch, appendColumns)
}

// ViewIn is View with memory that others use, too: v is valid until they do.
func (b *Builder) ViewIn(v *View, s *Scratch, appendColumns func([]byte) []byte) {
	v.Format = Format
	v.Rows, v.Selected = b.rows, b.rows
	v.FirstOffset, v.LastOffset = b.firstOffset, b.lastOffset
	v.Keys, v.Times, v.Offsets, v.Versions, v.Selection = b.keys, b.times, b.offsets, b.versions, nil
	v.JoinKeys, v.EventTimes = b.joinKeys, b.eventTimes
	s.raw = appendColumns(s.raw[:0])
	s.compressed = v.SetColumns(s.raw, s.compressed)
}
