package window

import (
	"encoding/binary"
	"math"
)

// Select picks, out of entries that Take gave, those of some keys; low is the low word of a key, of which an entry has the upper half.
func Select(data []byte, latest bool, keep func(low uint64) bool) Chunk {
	size := EntryBytes(latest)
	c := Chunk{MinMS: math.MaxInt64, MaxMS: math.MinInt64}
	for ; len(data) >= size; data = data[size:] {
		if !keep(uint64(binary.LittleEndian.Uint32(data[8:])) << 32) {
			continue
		}
		t := int64(binary.LittleEndian.Uint64(data[12:]))
		c.Data = append(c.Data, data[:size]...)
		c.Entries++
		c.MinMS, c.MaxMS = min(c.MinMS, t), max(c.MaxMS, t)
	}
	return c
}
