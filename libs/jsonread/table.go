package jsonread

import (
	"encoding/binary"
	"math/bits"
)

// table finds the entry of a field name. It compares the first and the last eight bytes as two
// words; the hash of those and the length is perfect for nearly every set of names, because the
// multiplier is chosen for it. Names that agree in all three are told apart by their bytes.
type table struct {
	slots []slot // a power of two, at most a quarter taken
	seed  uint64
	shift uint8
}

type slot struct {
	head, tail uint64
	size       int32
	id         int32 // -1: free
	name       string
}

// maxSeeds bounds the search for a perfect multiplier: with a quarter of the slots taken a few
// tries do for dozens of names; for thousands none does, and probing the next slot is fine.
const maxSeeds = 64

func newTable(ids map[string]int32) table {
	width := bits.Len(uint(len(ids)*4 - 1))
	if len(ids) == 0 {
		width = 0
	}
	var best table
	fewest := -1
	seed := uint64(0x9e3779b97f4a7c15)
	for range maxSeeds {
		t := table{slots: make([]slot, 1<<width), seed: seed, shift: uint8(64 - width)}
		for i := range t.slots {
			t.slots[i].id = -1
		}
		moved := 0
		for name, id := range ids {
			moved += t.insert(name, id)
		}
		if fewest < 0 || moved < fewest {
			best, fewest = t, moved
		}
		if fewest == 0 {
			break
		}
		seed = (seed*0x5851f42d4c957f2d + 0x14057b7ef767814f) | 1
	}
	return best
}

// insert returns how many slots were tried in vain.
func (t *table) insert(name string, id int32) (moved int) {
	b := []byte(name)
	head, tail := words(b, 0, len(b))
	at := t.hash(head, tail, len(b))
	for t.slots[at].id >= 0 {
		at = (at + 1) & uint64(len(t.slots)-1)
		moved++
	}
	t.slots[at] = slot{head: head, tail: tail, size: int32(len(b)), id: id, name: name}
	return moved
}

func (t *table) hash(head, tail uint64, size int) uint64 {
	return ((head ^ bits.RotateLeft64(tail, 31) ^ uint64(size)) * t.seed) >> t.shift
}

// find returns the entry of the name b[from:to], -1 when it is not in the table.
func (t *table) find(b []byte, from, to int) int32 {
	head, tail := words(b, from, to)
	at := t.hash(head, tail, to-from)
	for {
		s := &t.slots[at&uint64(len(t.slots)-1)]
		if s.id < 0 {
			return -1
		}
		if s.head == head && s.tail == tail && int(s.size) == to-from &&
			(s.size <= 16 || s.name == string(b[from:to])) {
			return s.id
		}
		at++
	}
}

// words returns the first and the last eight bytes of b[from:to]; of a shorter name its bytes
// and 0.
func words(b []byte, from, to int) (head, tail uint64) {
	switch {
	case to-from >= 8:
		return binary.LittleEndian.Uint64(b[from:]), binary.LittleEndian.Uint64(b[to-8:])
	case from+8 <= len(b):
		return binary.LittleEndian.Uint64(b[from:]) & (1<<(uint(to-from)*8) - 1), 0
	}
	for i := to - 1; i >= from; i-- {
		head = head<<8 | uint64(b[i])
	}
	return head, 0
}
