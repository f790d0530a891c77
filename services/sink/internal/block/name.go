package block

import (
	"fmt"
	"strconv"
)

// Name names a block for good: what is sent under it is the same whenever it is sent.
type Name struct {
	Pipeline string
	UID      string // a pipeline made anew with the same id must not meet the tokens of the old one
	Table    string
	Lane     int
	// Epoch is how often the log's sequences have begun anew: the same range names other rows in each.
	Epoch uint32
	First uint64
	Last  uint64
	// Content is a hash of where the block's rows come from. Nobody may know that the sequences have begun anew, when all of the store was put back; and the
	// table may remember the token of what had them before. 0: not known, in positions of earlier versions.
	Content uint64
}

// Token is the deduplication token of the block as a whole.
func (n Name) Token() string {
	token := fmt.Sprintf("%s%s%d-%d", n.Family(), n.epoch("e%d/"), n.First, n.Last)
	if n.Content != 0 {
		token += fmt.Sprintf("/%016x", n.Content)
	}
	return token
}

// Family is what the tokens of all blocks of the lane begin with.
func (n Name) Family() string {
	return fmt.Sprintf("sluice/%s.%s/%s/%d/", n.Pipeline, n.UID, n.Table, n.Lane)
}

// QueryID is under which all parts of the block are inserted, one at a time, so that a successor can end whatever
// its predecessor still has running.
func (n Name) QueryID() string {
	return fmt.Sprintf("%s%d-%s%d-%d", n.Queries(), n.Lane, n.epoch("e%d-"), n.First, n.Last)
}

// Queries is what the ids of the pipeline's queries begin with.
func (n Name) Queries() string { return fmt.Sprintf("sluice-%s-%s-", n.Pipeline, n.UID) }

// epoch is nothing in the first one, so that names are as they were before there were epochs.
func (n Name) epoch(format string) string {
	if n.Epoch == 0 {
		return ""
	}
	return fmt.Sprintf(format, n.Epoch)
}

// Range is a part of a group's rows: [From, To).
type Range struct{ From, To int }

// Rows is how many rows there are.
func (r Range) Rows() int { return r.To - r.From }

// Shift moves the range by so many rows.
func (r Range) Shift(by int) Range { return Range{r.From + by, r.To + by} }

// Holds tells that the other range is a part of this one, not empty and not all of it.
func (r Range) Holds(other Range) bool {
	return other.Rows() > 0 && r.From <= other.From && other.To <= r.To && r != other
}

// Halves takes a range of at least two rows apart.
func (r Range) Halves() (Range, Range) {
	middle := r.From + r.Rows()/2
	return Range{r.From, middle}, Range{middle, r.To}
}

// Token is the token of a range of a group; the whole group's is its own.
func (g *Group) Token(block string, r Range) string {
	token := block
	if g.Pattern != "" {
		token += "/p" + g.Pattern
	}
	if r.From != 0 || r.To != g.Rows {
		token += "/" + strconv.Itoa(r.From) + "-" + strconv.Itoa(r.To)
	}
	return token
}
