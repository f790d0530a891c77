package native

import (
	"bytes"

	"github.com/zeebo/xxh3"
)

// dictionary numbers distinct values in the order of their first occurrence. A value is its bytes
// in Native, so that keys is a Native column of the distinct values.
type dictionary struct {
	keys  []byte
	ends  []int    // where each key ends in keys
	sums  []uint64 // the hash of each key
	slots []uint32 // open addressing: number of the key + 1; a power of two, at most half full
}

func (d *dictionary) reset() {
	d.keys, d.ends, d.sums = d.keys[:0], d.ends[:0], d.sums[:0]
	clear(d.slots)
	if d.slots == nil {
		d.slots = make([]uint32, 256)
	}
}

func (d *dictionary) len() int { return len(d.ends) }

func (d *dictionary) key(i uint32) []byte {
	start := 0
	if i > 0 {
		start = d.ends[i-1]
	}
	return d.keys[start:d.ends[i]]
}

// add appends a key that no search finds: the one that stands for NULL.
func (d *dictionary) add(key []byte) {
	d.keys = append(d.keys, key...)
	d.ends = append(d.ends, len(d.keys))
	d.sums = append(d.sums, 0)
}

// number returns the number of key, which is new or not.
func (d *dictionary) number(key []byte) uint32 {
	sum := xxh3.Hash(key)
	mask := uint64(len(d.slots) - 1)
	at := sum & mask
	for ; d.slots[at] != 0; at = (at + 1) & mask {
		i := d.slots[at] - 1
		if d.sums[i] == sum && bytes.Equal(d.key(i), key) {
			return i
		}
	}
	i := uint32(d.len())
	d.add(key)
	d.sums[i] = sum
	d.slots[at] = i + 1
	if 2*d.len() > len(d.slots) {
		d.grow()
	}
	return i
}

func (d *dictionary) grow() {
	old := d.slots
	d.slots = make([]uint32, 2*len(old))
	mask := uint64(len(d.slots) - 1)
	for _, slot := range old {
		if slot == 0 {
			continue
		}
		at := d.sums[slot-1] & mask
		for d.slots[at] != 0 {
			at = (at + 1) & mask
		}
		d.slots[at] = slot
	}
}
