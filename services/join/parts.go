package join

import (
	"errors"
	"fmt"
	"time"

	"google.golang.org/protobuf/proto"

	eventv1 "sluice/gen/sluice/event/v1"
	"sluice/libs/batch"
	"sluice/libs/deadletters"
	"sluice/libs/fold"
	"sluice/libs/watermark"
	"sluice/services/join/internal/match"
	"sluice/services/join/internal/state"
)

const (
	// partBytes and partRows are when a message is full, before compression.
	partBytes = 384 << 10
	partRows  = 1 << 16
	// messageRoom is left for what a message has beside columns and origins.
	messageRoom = 4 << 10
	// refusalsAtOnce is how many late rows are handed on at a time.
	refusalsAtOnce = 256
)

// parts makes messages of what comes out of a step. Where one ends and the next begins depends on the rows alone, so that a
// replay finds the same.
type parts struct {
	core       *core
	lane       int
	maxMessage int

	since    *batch.Taken // of whole steps since the last message
	before   int64        // watermark before the step
	past     *recalled    // what is out already; nil but while rows come again
	in       fold.Input
	emitter  fold.Emitter
	refusals []deadletters.Refusal

	columns *output
	rows    int
	bytes   int // of the cells and origins
	origins []byte
	raw     []byte
	packed  []byte
}

var _ match.Output = (*parts)(nil)

func (p *parts) begin(in fold.Input, emitter fold.Emitter) {
	p.in, p.emitter = in, emitter
	p.before = p.core.joiner.Watermark()
	p.columns = nil
	p.refusals = nil
	p.reset()
}

func (p *parts) reset() {
	if p.columns != nil {
		for _, c := range p.columns.columns {
			c.Reset()
		}
	}
	p.rows, p.bytes, p.origins = 0, 0, p.origins[:0]
	p.core.links.message()
}

// Pair puts a pair out.
func (p *parts) Pair(left, right *state.Row) error {
	if p.isOut(left, right) || p.known(left, right) {
		return nil
	}
	return p.row(left, right)
}

// Unmatched puts a left row out alone.
func (p *parts) Unmatched(left *state.Row) error {
	if p.isOut(left, nil) || p.known(left, nil) {
		return nil
	}
	return p.row(left, nil)
}

// isOut counts a row that was put out before the log lost its tail.
func (p *parts) isOut(left, right *state.Row) bool {
	if p.past == nil || !p.past.out(left, right) {
		return false
	}
	p.in.Tally.Rows++
	return true
}

// known counts a row of a step whose messages are all in the log. Of a large one, and of one of another revision, it must be seen again whether it was refused.
func (p *parts) known(left, right *state.Row) bool {
	newest := p.core.newest
	if !p.in.Published || size(left, right) > partBytes || left.Revision != newest || right != nil && right.Revision != newest {
		return false
	}
	p.in.Tally.Rows++
	return true
}

// size is what a row takes of a message.
func size(left, right *state.Row) int {
	n := len(left.Cells) + batch.OriginBytes
	if right != nil {
		n += len(right.Cells)
	}
	return n
}

func (p *parts) row(left, right *state.Row) error {
	size := size(left, right)
	if p.rows > 0 && (p.bytes+size > partBytes || p.rows >= partRows) {
		if err := p.flush(); err != nil {
			return err
		}
	}
	if p.columns == nil {
		columns, err := p.core.layouts.output(p.core.newest)
		if err != nil {
			return err
		}
		p.columns = columns
		p.reset()
	}
	if refused, err := p.append(left, right); refused || err != nil {
		return err
	}
	if !p.in.Published {
		p.core.links.row(left)
		if right != nil {
			p.core.links.row(right)
		}
	}
	p.rows++
	p.bytes += size
	p.in.Tally.Rows++
	if size > partBytes && !p.fits() {
		return p.refuseLarge(left)
	}
	return nil
}

// append lays a row out by the newest revision. One that has a value which does not fit any more is refused.
func (p *parts) append(left, right *state.Row) (refused bool, err error) {
	origin := batch.Origin{LeftPartition: left.Partition, LeftOffset: left.Offset, RightPartition: batch.NoRight, EventMS: left.TimeMS}
	of := left
	err = p.cells(left)
	switch {
	case err != nil:
	case right == nil:
		err = appendMissing(p.core.layouts.absent(state.Right, p.columns))
	default:
		of = right
		origin.RightPartition, origin.RightOffset = right.Partition, right.Offset
		err = p.cells(right)
	}
	var value *unfit
	if errors.As(err, &value) {
		for _, c := range p.columns.columns {
			c.Truncate(min(c.Rows(), p.rows))
		}
		p.refuseUnfit(of, left, right, value)
		return true, nil
	}
	if err != nil {
		return false, fmt.Errorf("%s row of partition %d, offset %d: %w", p.core.names[of.Side], of.Partition, of.Offset, err)
	}
	p.origins = batch.AppendOrigin(p.origins, origin)
	return false, nil
}

// cells appends the cells of a row to the columns of its side.
func (p *parts) cells(r *state.Row) error {
	m, err := p.core.layouts.mapping(r.Side, r.Revision, p.columns)
	if err != nil {
		return err
	}
	return m.append(r.Cells)
}

// refuseUnfit refuses a row for a value of its own, or of the right row that it met.
func (p *parts) refuseUnfit(of, left, right *state.Row, value *unfit) {
	reason := value.Error()
	if right != nil { // tells the pairs of a row apart
		with := left
		if of == left {
			with = right
		}
		reason += fmt.Sprintf("; joined with offset %d of partition %d of %s", with.Offset, with.Partition, p.core.names[with.Side])
	}
	p.refuse(deadletters.Refusal{
		Source: p.core.names[of.Side], Topic: p.core.topics[of.Side], Partition: of.Partition, Offset: of.Offset,
		Field: value.column, SchemaRevision: of.Revision, Reason: reason,
	})
}

// fits tells whether the one large row there is fits into a message once it is compressed.
func (p *parts) fits() bool {
	var v batch.View
	p.pack(&v)
	return v.Size()+messageRoom <= p.maxMessage
}

// refuseLarge refuses a row that no message takes.
func (p *parts) refuseLarge(left *state.Row) error {
	p.in.Tally.Rows--
	p.refuse(deadletters.Refusal{
		Source: p.core.names[state.Left], Topic: p.core.topics[state.Left], Partition: left.Partition, Offset: left.Offset,
		SchemaRevision: left.Revision,
		Reason: fmt.Sprintf("the joined row has %d bytes: more than a message of %d bytes takes, even compressed; raise max_payload of NATS",
			p.bytes, p.maxMessage),
	})
	p.reset()
	return nil
}

func (p *parts) pack(v *batch.View) {
	p.raw = p.raw[:0]
	for _, c := range p.columns.columns {
		p.raw = batch.AppendColumn(p.raw, c.AppendWire)
	}
	p.packed = v.SetColumns(p.raw, p.packed)
	v.Origins = p.origins
}

// flush hands the message on.
func (p *parts) flush() error {
	if p.rows == 0 {
		return nil
	}
	p.count()
	tally, past, traceparent := *p.in.Tally, p.pastOf(), p.core.links.parent(p.in.View.Traceparent)
	err := p.emitter.Append(p.lane, func(dst []byte) []byte {
		in := p.in.View
		v := batch.View{
			SchemaRevision: p.columns.revision, Rows: p.rows, Selected: p.rows, ArrivalMS: in.ArrivalMS, InputSequence: p.in.Sequence,
			Tally: tally, JoinPast: past, Traceparent: traceparent, OldestMS: in.OldestMS,
		}
		p.pack(&v)
		return v.Append(dst)
	})
	p.reset()
	return err
}

// pastOf says what is taken by now.
func (p *parts) pastOf() []byte {
	past := &eventv1.JoinPast{Taken: p.since.Proto()}
	p.since = batch.NewTaken() // the next message follows this one
	own := batch.NewTaken()
	own.Admit(p.in.Writer, p.in.View)
	past.Own = own.Proto()
	now, before := p.core.joiner.Watermark(), p.before
	if p.past != nil { // it stands still, and rows were judged by where it was
		now, before = p.past.watermark, p.past.watermark
	}
	if now != watermark.None {
		past.WatermarkMs = &now
	}
	if before != watermark.None {
		past.BeforeMs = &before
	}
	data, err := (proto.MarshalOptions{Deterministic: true}).Marshal(past)
	if err != nil {
		panic(fmt.Sprintf("encode what the join has taken: %v", err)) // names of sources and writers are checked
	}
	return data
}

// count brings the lane's tally to where the join is.
func (p *parts) count() {
	n := p.core.joiner.Counts
	t := p.in.Tally
	t.Matched, t.Unmatched, t.Late, t.Dropped = n.Matched, n.Unmatched, n.Late, n.Dropped
}

// refuse sends a row to the dead letters, in the order of the rows.
func (p *parts) refuse(r deadletters.Refusal) {
	p.in.Tally.DeadLetters++
	if p.past != nil && p.past.isRefused(&r) {
		return
	}
	p.refusals = append(p.refusals, r)
}

// end hands on what is left.
func (p *parts) end() error {
	if err := p.flush(); err != nil {
		return err
	}
	p.count()
	for len(p.refusals) > 0 {
		n := min(len(p.refusals), refusalsAtOnce)
		if err := p.emitter.Refuse(p.refusals[:n:n]); err != nil {
			return err
		}
		p.refusals = p.refusals[n:]
	}
	return nil
}

func moment(ms int64) string { return time.UnixMilli(ms).UTC().Format("2006-01-02T15:04:05.000Z") }
