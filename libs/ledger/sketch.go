package ledger

import (
	"encoding/binary"
	"fmt"
	"math/bits"
	"slices"
)

// The sketch is an invertible Bloom lookup table (Goodrich and Mitzenmacher, 2011) over a multiset: each hash is added to one
// cell in each of the rows of the table. A cell that holds a single hash, as often as it may be, gives it away; taken out of the other
// cells, it leaves others single. Sums, not exclusive ors, so that a hash that differs twice does not vanish.
const (
	tables = 4
	cells  = 64 // of each table; 6 bits of a hash name one
	// sketchVersion is the first byte of a sketch; cellBytes is what follows for each cell.
	sketchVersion = 1
	cellBytes     = 4 + 12 + 8
	sketchBytes   = 1 + tables*cells*cellBytes
	// maxDifferences bounds what Decode returns: a hash may differ any number of times.
	maxDifferences = 100_000
	// Hashes may be anything: a row with nothing but defaults has 0, which mix leaves as it is.
	firstSalt, secondSalt = 0x9e3779b97f4a7c15, 0xd1b54a32d192ed03
)

// cell adds up what was put into it. All sums wrap around; of a difference that is small they are exact.
type cell struct {
	count uint32
	// Sum of the hashes modulo 2^96, so that it can be divided by any small count.
	low  uint64
	high uint32
	// Sum of check(hash) modulo 2^64: tells a cell with one hash from one with several.
	check uint64
}

type sketch [tables * cells]cell

// places are the cells of a hash; check is what tells it.
func places(hash uint64) (at [tables]int, check uint64) {
	x := mix(hash + firstSalt)
	for i := range at {
		at[i] = i*cells + int(x>>(6*i)&(cells-1))
	}
	return at, mix(x ^ secondSalt)
}

// mix is the finalizer of splitmix64: a bijection.
func mix(x uint64) uint64 {
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}

// add adds a hash once: change by 1, for every row there is.
func (s *sketch) add(hash uint64) {
	x := mix(hash + firstSalt)
	check := mix(x ^ secondSalt)
	for i := range tables {
		c := &s[i*cells+int(x>>(6*i)&(cells-1))]
		c.count++
		low := c.low + hash
		if low < hash {
			c.high++
		}
		c.low = low
		c.check += check
	}
}

// change adds a hash n times.
func (s *sketch) change(hash uint64, n int32) {
	at, check := places(hash)
	high, low := bits.Mul64(hash, uint64(int64(n)))
	if n < 0 {
		high -= hash // n was taken for n + 2^64
	}
	for _, i := range at {
		c := &s[i]
		var carry uint64
		c.count += uint32(n)
		c.low, carry = bits.Add64(c.low, low, 0)
		c.high += uint32(high) + uint32(carry)
		c.check += check * uint64(int64(n))
	}
}

func (s *sketch) merge(other *sketch) {
	for i := range s {
		c, o := &s[i], &other[i]
		var carry uint64
		c.count += o.count
		c.low, carry = bits.Add64(c.low, o.low, 0)
		c.high += o.high + uint32(carry)
		c.check += o.check
	}
}

// single returns the hash that cell i holds, and how often, if it holds but one.
func (s *sketch) single(i int) (hash uint64, n int32, ok bool) {
	c := s[i]
	n = int32(c.count)
	if n == 0 {
		return 0, 0, false
	}
	high, low, by := c.high, c.low, uint64(n)
	if n < 0 {
		var borrow uint64
		low, borrow = bits.Sub64(0, low, 0)
		high, by = -high-uint32(borrow), uint64(-int64(n))
	}
	if uint64(high) >= by {
		return 0, 0, false // the quotient is no hash
	}
	hash, rest := bits.Div64(uint64(high), low, by)
	if rest != 0 {
		return 0, 0, false
	}
	at, check := places(hash)
	return hash, n, at[i/cells] == i && c.check == check*uint64(int64(n))
}

func (s *sketch) differences() (missing, extra []uint64, complete bool) {
	left := *s
	var waiting []int
	for i := range left {
		waiting = append(waiting, i)
	}
	// Hostile sums could bring a hash back again and again.
	for steps := 0; len(waiting) > 0 && steps < 16*len(left); steps++ {
		i := waiting[len(waiting)-1]
		waiting = waiting[:len(waiting)-1]
		hash, n, ok := left.single(i)
		if !ok {
			continue
		}
		found, times := &missing, int64(n)
		if n < 0 {
			found, times = &extra, -times
		}
		if int64(len(missing)+len(extra))+times > maxDifferences {
			return missing, extra, false
		}
		*found = append(*found, slices.Repeat([]uint64{hash}, int(times))...)
		at, _ := places(hash)
		left.change(hash, -n)
		for _, other := range at {
			if other != i {
				waiting = append(waiting, other)
			}
		}
	}
	return missing, extra, left == sketch{}
}

// encode lays the cells out one after the other, little endian. A sketch of nothing has no bytes.
func (s *sketch) encode() []byte {
	if *s == (sketch{}) {
		return nil
	}
	out := make([]byte, 0, sketchBytes)
	out = append(out, sketchVersion)
	for i := range s {
		out = binary.LittleEndian.AppendUint32(out, s[i].count)
		out = binary.LittleEndian.AppendUint64(out, s[i].low)
		out = binary.LittleEndian.AppendUint32(out, s[i].high)
		out = binary.LittleEndian.AppendUint64(out, s[i].check)
	}
	return out
}

func (s *sketch) decode(data []byte) error {
	*s = sketch{}
	switch {
	case len(data) == 0:
		return nil
	case data[0] != sketchVersion:
		return fmt.Errorf("sketch of version %d, this version knows %d", data[0], sketchVersion)
	case len(data) != sketchBytes:
		return fmt.Errorf("sketch of %d bytes, not %d", len(data), sketchBytes)
	}
	data = data[1:]
	for i := range s {
		s[i] = cell{
			count: binary.LittleEndian.Uint32(data), low: binary.LittleEndian.Uint64(data[4:]),
			high: binary.LittleEndian.Uint32(data[12:]), check: binary.LittleEndian.Uint64(data[16:]),
		}
		data = data[cellBytes:]
	}
	return nil
}
