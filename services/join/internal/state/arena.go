package state

// chunkSize is how much memory the cells are kept in at a time. Go's collector does not look into it.
const chunkSize = 256 << 10

// arena holds the cells of rows. Memory of removed rows comes back with the last row of its chunk, and by compaction.
type arena struct {
	chunks [][]byte
	used   []int   // bytes of each chunk that belong to rows
	free   []int32 // chunks without memory
	spare  []byte  // one chunk kept for the next time
	fill   int32   // the chunk that is being filled; -1 = none
	live   int     // sum of used
	held   int     // sum of the capacities of chunks
}

// place is where the cells of a row are.
type place struct {
	chunk    int32
	at, size uint32
}

func newArena() arena { return arena{fill: -1} }

func (a *arena) put(cells []byte) place {
	if a.fill < 0 || len(a.chunks[a.fill])+len(cells) > cap(a.chunks[a.fill]) {
		a.open(len(cells))
	}
	c := a.chunks[a.fill]
	p := place{chunk: a.fill, at: uint32(len(c)), size: uint32(len(cells))}
	a.chunks[a.fill] = append(c, cells...)
	a.used[a.fill] += len(cells)
	a.live += len(cells)
	return p
}

func (a *arena) open(need int) {
	last := a.fill
	chunk := a.spare
	a.spare = nil
	if chunk == nil || cap(chunk) < need {
		chunk = make([]byte, 0, max(chunkSize, need))
	}
	if n := len(a.free); n > 0 {
		a.fill, a.free = a.free[n-1], a.free[:n-1]
		a.chunks[a.fill] = chunk
	} else {
		a.fill = int32(len(a.chunks))
		a.chunks, a.used = append(a.chunks, chunk), append(a.used, 0)
	}
	a.held += cap(chunk)
	if last >= 0 && a.used[last] == 0 {
		a.release(last)
	}
}

func (a *arena) get(p place) []byte { return a.chunks[p.chunk][p.at : p.at+p.size : p.at+p.size] }

func (a *arena) drop(p place) {
	a.used[p.chunk] -= int(p.size)
	a.live -= int(p.size)
	if a.used[p.chunk] == 0 && p.chunk != a.fill {
		a.release(p.chunk)
	}
}

func (a *arena) release(chunk int32) {
	a.held -= cap(a.chunks[chunk])
	if a.spare == nil && cap(a.chunks[chunk]) == chunkSize {
		a.spare = a.chunks[chunk][:0]
	}
	a.chunks[chunk] = nil
	a.free = append(a.free, chunk)
}
