package disk

import "sluice/services/join/internal/state"

const (
	// A generation takes at least so many keys. Each takes keyBits of memory, so that one in a hundred that are not there seems to be.
	leastKeys = 1 << 14
	keyBits   = 12
	probes    = 6
	// blockWords is how much of the bits one key may be in: one line of the processor's cache.
	blockWords = 8
)

// filter tells of a key that no row on disk has it, for most keys of which that is so, without asking the disk. It knows keys that were put since it was
// made, and forgets none: it is made anew when most of what it knows is gone.
type filter struct {
	generations []*generation
	keys        int // put
}

// generation is a Bloom filter of a size of its own.
type generation struct {
	bits       []uint64
	keys, most int
}

func newGeneration(most int) *generation {
	blocks := (most*keyBits + 64*blockWords - 1) / (64 * blockWords)
	return &generation{bits: make([]uint64, blocks*blockWords), most: most}
}

// at is the block of a key, and where its bits are drawn from. Keys are fingerprints: any part of them is as good as a hash.
func (g *generation) at(side state.Side, key state.Key) (block []uint64, draw uint64) {
	blocks := uint64(len(g.bits) / blockWords)
	n := int((key[1]>>32)*blocks>>32) * blockWords
	return g.bits[n : n+blockWords : n+blockWords], (key[0] ^ key[1]<<17 ^ uint64(side)) * 0x9e3779b97f4a7c15
}

func (g *generation) add(side state.Side, key state.Key) {
	block, draw := g.at(side, key)
	for range probes {
		block[draw>>6&(blockWords-1)] |= 1 << (draw & 63)
		draw >>= 9
	}
	g.keys++
}

func (g *generation) has(side state.Side, key state.Key) bool {
	block, draw := g.at(side, key)
	for range probes {
		if block[draw>>6&(blockWords-1)]&(1<<(draw&63)) == 0 {
			return false
		}
		draw >>= 9
	}
	return true
}

func (f *filter) add(side state.Side, key state.Key) {
	n := len(f.generations)
	if n == 0 || f.generations[n-1].keys == f.generations[n-1].most {
		f.generations = append(f.generations, newGeneration(max(leastKeys, f.keys/2)))
		n++
	}
	f.generations[n-1].add(side, key)
	f.keys++
}

func (f *filter) has(side state.Side, key state.Key) bool {
	for i := len(f.generations) - 1; i >= 0; i-- {
		if f.generations[i].has(side, key) {
			return true
		}
	}
	return false
}

// stale tells that most of what it knows is gone when so many rows are left.
func (f *filter) stale(rows int) bool { return f.keys > 2*rows+4*leastKeys }

func (f *filter) bytes() (n int) {
	for _, g := range f.generations {
		n += 8 * len(g.bits)
	}
	return n
}
