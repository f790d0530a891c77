package block

import (
	"encoding/hex"
	"math/bits"
	"slices"
	"strings"
)

// Group is the rows that are sent together: those that have the same optional columns. A column that
// its rows lack is left out of the INSERT, so that the server computes its default.
type Group struct {
	// Pattern is which optional columns are present: a bitmap in hexadecimal, lowest bit first. Empty when the
	// schema has no optional columns.
	Pattern string
	Rows    int
	// Index is the row of the block that each row of the group is; empty: the same.
	Index []uint32
}

// BlockRow is the row of the block that a row of the group is.
func (g *Group) BlockRow(row int) int {
	if len(g.Index) == 0 {
		return row
	}
	return int(g.Index[row])
}

// Part is the rows of one message that go into one group.
type Part struct {
	Pattern string
	Keep    []byte // bitmap, lowest bit first; nil: all rows
	Rows    int
	// Index has the row among the message's kept rows of each row of the part; nil: the same.
	Index []uint32
}

// Partition divides a message's rows by their optional columns. keep is the message's selection (nil: all rows);
// present has a bitmap for each optional column of the schema (nil: present in all rows). The parts come in the
// order of their patterns. Without optional columns there is one part without a pattern.
func Partition(rows int, keep []byte, kept int, present [][]byte) []Part {
	if len(present) == 0 {
		return []Part{{Keep: keep, Rows: kept}}
	}
	pattern := make([]byte, (len(present)+7)/8)
	uniform := true
	for i, mask := range present {
		switch {
		case mask == nil || covers(mask, keep, rows):
			pattern[i/8] |= 1 << (i % 8)
		case meets(mask, keep):
			uniform = false
		}
	}
	if uniform {
		return []Part{{Pattern: hex.EncodeToString(pattern), Keep: keep, Rows: kept}}
	}
	byPattern := map[string]*Part{}
	var last *Part
	lastPattern := ""
	var row, at uint32
	for ; int(row) < rows; row++ {
		if keep != nil && keep[row/8]>>(row%8)&1 == 0 {
			continue
		}
		for i, mask := range present {
			if mask == nil || mask[row/8]>>(row%8)&1 == 1 {
				pattern[i/8] |= 1 << (i % 8)
			} else {
				pattern[i/8] &^= 1 << (i % 8)
			}
		}
		if last == nil || lastPattern != string(pattern) {
			lastPattern = string(pattern)
			if last = byPattern[lastPattern]; last == nil {
				last = &Part{Pattern: hex.EncodeToString(pattern), Keep: make([]byte, (rows+7)/8)}
				byPattern[lastPattern] = last
			}
		}
		last.Keep[row/8] |= 1 << (row % 8)
		last.Rows++
		last.Index = append(last.Index, at)
		at++
	}
	parts := make([]Part, 0, len(byPattern))
	for _, p := range byPattern {
		parts = append(parts, *p)
	}
	slices.SortFunc(parts, func(a, b Part) int { return strings.Compare(a.Pattern, b.Pattern) })
	return parts
}

// covers tells whether mask has every kept row.
func covers(mask, keep []byte, rows int) bool {
	for i := range (rows + 7) / 8 {
		want := byte(0xff)
		if tail := rows - i*8; tail < 8 {
			want = 1<<tail - 1
		}
		if keep != nil {
			want &= keep[i]
		}
		if mask[i]&want != want {
			return false
		}
	}
	return true
}

// meets tells whether mask has any kept row.
func meets(mask, keep []byte) bool {
	for i, b := range mask {
		if keep != nil {
			b &= keep[i]
		}
		if bits.OnesCount8(b) != 0 {
			return true
		}
	}
	return false
}

// Has tells whether the pattern has optional column i.
func Has(pattern string, i int) bool {
	digit := pattern[i/8*2+1-i%8/4] // two hexadecimal digits a byte, the high one first
	value := strings.IndexByte("0123456789abcdef", digit)
	return value>>(i%4)&1 == 1
}
