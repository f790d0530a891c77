package join

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"google.golang.org/protobuf/proto"

	eventv1 "sluice/gen/sluice/event/v1"
	"sluice/libs/batch"
	"sluice/libs/deadletters"
	"sluice/libs/fold"
	"sluice/libs/watermark"
	"sluice/services/join/internal/match"
	"sluice/services/join/internal/state"
)

// recalled is what the lane had put out and refused behind its checkpoint when the log before it lost its tail: what a row that comes again is held
// against. Its memory is some hundred bytes for each row that was put out between two checkpoints. Rows are told by partition
// and offset; left rows by their event time, too, since a topic that was made anew gives offsets out again.
type recalled struct {
	core  *core
	tally *batch.Tally

	lefts     map[record]fate
	pairs     map[pair]struct{}
	refused   map[letter]int // letters, of what is not late
	late      map[letter]struct{}
	future    map[letter]struct{}
	watermark int64        // the furthest that the outputs tell of
	known     *batch.Taken // what was taken before the last step that put something out
	steps     []lastStep   // more than one when this has happened again in the middle
	until     uint64

	// Of the batch that is being taken in: its first rows were known; those up to ends[i] are of steps[i].
	before int
	ends   []int
	row    int
}

// lastStep is the last step that put something out. Perhaps not all of it is out.
type lastStep struct {
	own       *batch.Taken
	watermark int64 // before it
}

type record struct {
	partition int32
	offset    int64
}

type pair struct{ left, right record }

type fate struct {
	eventMS int64
	fate    match.Fate
}

type letter struct {
	topic string
	record
	reason string // tells the pairs of a left row apart that were too large; empty of late rows
}

var _ match.Past = (*recalled)(nil)

// recalling returns what is recalled, empty at first.
func (c *core) recalling() *recalled {
	if c.past == nil {
		c.past = &recalled{
			core: c, lefts: map[record]fate{}, pairs: map[pair]struct{}{}, refused: map[letter]int{}, late: map[letter]struct{}{}, future: map[letter]struct{}{},
			watermark: c.joiner.Watermark(), known: batch.NewTaken(),
		}
	}
	return c.past
}

var _ fold.Replayer = (*core)(nil)

// Recall takes in a message that was put out.
func (c *core) Recall(v *batch.View) error {
	p := c.recalling()
	if len(v.JoinPast) == 0 {
		return errors.New("an earlier version has put this out, which did not note what it had taken: it cannot be told from what is new")
	}
	if err := p.take(v.JoinPast); err != nil {
		return fmt.Errorf("what the join had taken: %w", err)
	}
	if len(v.Origins) == 0 {
		return nil
	}
	for row := range v.Rows {
		o := v.Origin(row)
		left := record{o.LeftPartition, o.LeftOffset}
		if o.RightPartition == batch.NoRight {
			p.lefts[left] = fate{o.EventMS, match.Alone}
			continue
		}
		p.lefts[left] = fate{o.EventMS, match.Met}
		p.pairs[pair{left, record{o.RightPartition, o.RightOffset}}] = struct{}{}
	}
	return nil
}

func (p *recalled) take(data []byte) error {
	var past eventv1.JoinPast
	if err := proto.Unmarshal(data, &past); err != nil {
		return err
	}
	if past.WatermarkMs != nil {
		p.watermark = max(p.watermark, past.GetWatermarkMs())
	}
	taken, err := batch.TakenOf(past.GetTaken())
	if err != nil {
		return err
	}
	own, err := batch.TakenOf(past.GetOwn())
	if err != nil {
		return err
	}
	p.known.Add(taken)
	p.steps = slices.DeleteFunc(p.steps, func(s lastStep) bool { return len(s.own.Ahead(p.known)) == 0 })
	before := int64(watermark.None)
	if past.BeforeMs != nil {
		before = past.GetBeforeMs()
	}
	if n := len(p.steps); n > 0 && len(p.steps[n-1].own.Ahead(own)) == 0 && len(own.Ahead(p.steps[n-1].own)) == 0 {
		return nil // another message of the step
	}
	p.steps = append(p.steps, lastStep{own, before})
	return nil
}

// RecallRefused takes in dead letters.
func (c *core) RecallRefused(letters []*eventv1.DeadLetter) {
	p := c.recalling()
	for _, l := range letters {
		at := letter{l.GetTopic(), record{l.GetPartition(), l.GetOffset()}, ""}
		switch {
		case strings.HasPrefix(l.GetReason(), latePrefix):
			p.late[at] = struct{}{}
		case strings.HasPrefix(l.GetReason(), futurePrefix):
			p.future[at] = struct{}{}
		default:
			at.reason = l.GetReason()
			p.refused[at]++
		}
	}
}

// RecallTaken takes in what was taken beyond what is recalled: those rows were not late, or there is a letter.
func (c *core) RecallTaken(t *batch.Taken) {
	p := c.recalling()
	p.known.Add(t)
	p.steps = slices.DeleteFunc(p.steps, func(s lastStep) bool { return len(s.own.Ahead(p.known)) == 0 })
}

// Recalled makes good in the rows that wait what was put out of them.
func (c *core) Recalled(t *batch.Tally) (*batch.Taken, error) {
	p := c.recalling()
	p.tally = t
	c.out.in.Tally, c.out.past = t, p
	if err := c.joiner.Remember(p, c.out); err != nil {
		return nil, err
	}
	c.out.count()
	all := p.known.Clone()
	for _, s := range p.steps {
		all.Add(s.own)
	}
	return all, nil
}

// Replay says with which step all that is recalled has come.
func (c *core) Replay(until uint64) {
	if c.past != nil {
		c.past.until = until
	}
}

// Replaying tells whether it is still to come.
func (c *core) Replaying() bool { return c.past != nil }

// begin prepares for the rows of a batch.
func (p *recalled) begin(in fold.Input) {
	p.before = p.known.Before(in.Writer, in.View)
	p.ends = p.ends[:0]
	for _, s := range p.steps {
		p.ends = append(p.ends, s.own.Before(in.Writer, in.View))
	}
}

// Late tells that a row was refused as late; else which watermark it must not be behind: what was known when nothing was lost is not late, of the last step
// it is judged by what held before that, and what is new, by what held after it.
func (p *recalled) Late(r *state.Row) (late bool, w int64) {
	if p.in(p.late, r) {
		return true, 0
	}
	if p.row < p.before {
		return false, watermark.None
	}
	for i, end := range p.ends {
		if p.row < end {
			return false, p.steps[i].watermark
		}
	}
	return false, p.watermark
}

// Future tells that a row was refused since its time was too far ahead.
func (p *recalled) Future(r *state.Row) bool { return p.in(p.future, r) }

// in tells whether there is a letter of a row. Of a topic that is joined with itself a letter does not tell which of the two rows it is of.
func (p *recalled) in(letters map[letter]struct{}, r *state.Row) bool {
	topics := p.core.topics
	if len(letters) == 0 || topics[state.Left] == topics[state.Right] {
		return false
	}
	_, ok := letters[letter{topics[r.Side], record{r.Partition, r.Offset}, ""}]
	return ok
}

// Left is what became of a left row.
func (p *recalled) Left(r *state.Row) match.Fate {
	f, ok := p.lefts[record{r.Partition, r.Offset}]
	if !ok || f.eventMS != r.TimeMS {
		return match.Undecided
	}
	return f.fate
}

// Done counts a row that was put out.
func (p *recalled) Done() { p.tally.Rows++ }

// out tells whether a row was put out.
func (p *recalled) out(left, right *state.Row) bool {
	f, ok := p.lefts[record{left.Partition, left.Offset}]
	if !ok || f.eventMS != left.TimeMS {
		return false
	}
	if right == nil {
		return f.fate == match.Alone
	}
	_, ok = p.pairs[pair{record{left.Partition, left.Offset}, record{right.Partition, right.Offset}}]
	return ok
}

// isRefused tells whether there is a letter, and takes it off.
func (p *recalled) isRefused(r *deadletters.Refusal) bool {
	at := letter{r.Topic, record{r.Partition, r.Offset}, ""}
	if strings.HasPrefix(r.Reason, latePrefix) {
		_, ok := p.late[at]
		return ok
	}
	if strings.HasPrefix(r.Reason, futurePrefix) {
		_, ok := p.future[at]
		return ok
	}
	at.reason = strings.ToValidUTF8(r.Reason, "\uFFFD")
	if p.refused[at] == 0 {
		return false
	}
	p.refused[at]--
	return true
}
