// Package block plans the blocks that are inserted: where one ends, how its rows are grouped, and under which
// tokens it and its parts are sent. It has no clock, no I/O and no goroutines.
//
// Guaranteed: which rows are sent together under which token depends on the messages of a block's range
// and nothing else, so that a range that is sent again is the same blocks under the same tokens.
//
// Not guaranteed: that two runs cut the log into the same ranges. Where a block ends depends on when
// its messages arrived; that is why a range is persisted before it is sent.
package block

import "time"

// Bounds end a block: it is sent when it reaches any of them.
type Bounds struct {
	Rows     int
	Bytes    int
	MaxDelay time.Duration
}

// Message is what the plan needs to know of a message of the log.
type Message struct {
	Sequence uint64
	Stored   time.Time // by the log
	Revision uint64    // of the schema
	Rows     int       // that are still in
	Bytes    int       // of those, uncompressed
	Behind   bool      // so much is waiting behind it that its rows are late whatever is done
}

// Plan is the block that is being collected: a contiguous range of a lane's messages. The zero Plan is
// of no use; use NewPlan.
type Plan struct {
	bounds Bounds
	// Invariant: First ≤ Last, and all messages with rows are of one revision.
	First, Last uint64
	LastStored  time.Time
	Rows, Bytes int
	Revision    uint64 // 0 as long as there are no rows
	messages    int
	began       time.Time
	behind      bool // all rows are
}

// NewPlan returns an empty plan.
func NewPlan(b Bounds) *Plan { return &Plan{bounds: b} }

// Accepts tells whether the message can join the block; if not, the block is complete without it.
func (p *Plan) Accepts(m Message) bool {
	if p.Rows == 0 || m.Rows == 0 {
		return true
	}
	return m.Revision == p.Revision && p.Rows+m.Rows <= p.bounds.Rows && p.Bytes+m.Bytes <= p.bounds.Bytes
}

// Add adds a message that is accepted; now is when it arrived.
func (p *Plan) Add(m Message, now time.Time) {
	if p.messages == 0 {
		p.First, p.began = m.Sequence, now
	}
	p.messages++
	p.Last, p.LastStored = m.Sequence, m.Stored
	if m.Rows > 0 {
		p.behind = m.Behind && (p.behind || p.Rows == 0)
		p.Rows += m.Rows
		p.Bytes += m.Bytes
		p.Revision = m.Revision
	}
}

// Empty tells that there are no messages.
func (p *Plan) Empty() bool { return p.messages == 0 }

// Full tells that the block is to be sent whatever comes.
func (p *Plan) Full() bool { return p.Rows >= p.bounds.Rows || p.Bytes >= p.bounds.Bytes }

// While the pipeline is behind a block may take so many times the delay to fill, but no longer than that: fewer and larger blocks are what it takes to
// catch up.
const (
	behindShare = 4
	behindDelay = 5 * time.Second
)

// Due is when the block is to be sent at the latest. Only of a plan that is not empty.
func (p *Plan) Due() time.Time {
	delay := p.bounds.MaxDelay
	if p.behind {
		delay = max(delay, min(behindShare*delay, behindDelay))
	}
	return p.began.Add(delay)
}

// Reset empties the plan.
func (p *Plan) Reset() { *p = Plan{bounds: p.bounds} }
