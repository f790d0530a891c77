package fold

import (
	"context"
	"fmt"
	"sync/atomic"
	"time"

	"go.opentelemetry.io/otel/trace"
	"google.golang.org/protobuf/types/known/timestamppb"

	eventv1 "sluice/gen/sluice/event/v1"
	stagev1 "sluice/gen/sluice/stage/v1"
	"sluice/libs/batch"
	"sluice/libs/deadletters"
	"sluice/libs/fencedlog"
)

// fold is where a lane stands. Owned by the goroutine of foldAll.
type fold struct {
	core Core
	// Invariant: core and tally are those after the input at covered, and all before it.
	covered fencedlog.Mark
	tally   batch.Tally
	epoch   uint32
	// generation of the pipeline's record.
	generation uint64
	// published is what was in the output log when the lane was taken.
	published position
	taken     *batch.Taken     // rows of all inputs up to covered
	marks     []*eventv1.Mark  // oldest first
	healed    *eventv1.Healing // what was done about lost tails; what and ms are fixed by take
	rows      atomic.Uint64    // healed.rows, which status reads at any time
	replay    *eventv1.Replay  // what is folded again; nil unless the core is a Replayer that does
	view      batch.View
	input     Input  // of the last step
	selection []byte // scratch
	trace     *tracing
}

// inLog tells whether a position was in the output log when the lane was taken.
func (f *fold) inLog(step uint64, part int) bool {
	return f.published.covers(position{f.epoch, step, part})
}

// step takes one input. What it puts out goes to out. After an error nothing has changed, or the lane is of no further use.
func (f *fold) step(m fencedlog.Message, out *emitter) (err error) {
	out.begin(f, m)
	f.input = Input{Sequence: m.Sequence, Time: m.Time, Writer: m.Writer}
	v := &f.view
	if err := v.Parse(m.Data); err != nil {
		return fmt.Errorf("sequence %d: %w", m.Sequence, err)
	}
	// Rows that were taken before come again when a log that had lost its tail was filled again.
	repeated, dropped := f.taken.Before(m.Writer, v), 0
	if repeated > 0 {
		dropped, f.selection = v.DropFirst(repeated, f.selection)
		if repeated == v.Rows { // nothing else is in it: no step, no output
			f.rows.Add(uint64(dropped))
			f.covered = fencedlog.Mark{Sequence: m.Sequence, Time: m.Time}
			return nil
		}
	}
	end := v.End() // the core may change the view
	before, published := f.tally, f.inLog(m.Sequence, whole)
	f.input.View, f.input.Published, f.input.Tally = v, published, &f.tally
	if !published {
		span := f.trace.begin(m, v, out)
		defer func() { span.end(before, f.tally, err) }()
		f.input.Link = span.linker()
	}
	err = f.core.Step(f.input, out)
	if err != nil {
		f.tally = before
		return fmt.Errorf("sequence %d: %w", m.Sequence, err)
	}
	if err := out.end(); err != nil {
		return err
	}
	f.taken.Admit(m.Writer, &end)
	f.rows.Add(uint64(dropped))
	f.covered = fencedlog.Mark{Sequence: m.Sequence, Time: m.Time}
	return nil
}

// manifest says what a checkpoint made now covers, but for the core's part of it.
func (f *fold) manifest() *eventv1.Manifest {
	m := &eventv1.Manifest{
		CoveredSequence: f.covered.Sequence, CoveredTimeNs: f.covered.Time.UnixNano(), Tally: f.tally.Proto(), Epoch: f.epoch, Generation: f.generation,
		Taken: f.taken.Proto(), Marks: f.marks, Healed: f.healing(),
	}
	if core, ok := f.core.(Replayer); ok && f.replay != nil && core.Replaying() {
		m.Replay = f.replay
	}
	f.marks = mark(f.marks, f.covered)
	return m
}

// healing is what was done about lost tails, as it is now; nil when there was nothing.
func (f *fold) healing() *eventv1.Healing {
	rows := f.rows.Load()
	if rows == 0 && f.healed.GetWhat() == "" {
		return nil
	}
	return &eventv1.Healing{Rows: rows, What: f.healed.GetWhat(), Ms: f.healed.GetMs()}
}

// reportHealed shows what was done about lost tails, for good.
func (f *fold) reportHealed(s *stagev1.UnitStatus) {
	s.HealedRows = f.rows.Load()
	if f.healed.GetWhat() != "" {
		s.LastError, s.LastErrorTime = f.healed.GetWhat(), timestamppb.New(time.UnixMilli(f.healed.GetMs()))
	}
}

// report shows where the fold is. Counts that the last owner has shown do not go back while its
// outputs are replayed.
func (f *fold) report(u Unit, lag uint64) {
	u.Report(func(s *stagev1.UnitStatus) {
		s.Lag = lag
		f.core.Report(s)
		f.reportHealed(s)
		if f.tally.Records >= s.GetTally().GetRecords() {
			s.Position, s.Tally = f.covered.Sequence, f.tally.Proto()
		}
	})
}

// emitter is the Emitter of one step after the other. The last message of a step is held back until the step ends, because
// its position says that it is the last.
type emitter struct {
	ctx     context.Context
	outputs chan<- output
	buffers [][]byte
	allowed map[int]bool // output lanes

	f       *fold
	m       fencedlog.Message
	part    int // number of the next message of the step
	letters int // number of the next refusal of the step
	held    output
	holds   bool
	emitted bool
	trace   trace.SpanContext // of the step; not valid: its outputs have no spans
}

func newEmitter(ctx context.Context, lanes []int, outputs chan<- output) *emitter {
	e := &emitter{ctx: ctx, outputs: outputs, allowed: map[int]bool{}}
	for _, lane := range lanes {
		e.allowed[lane] = true
	}
	return e
}

func (e *emitter) begin(f *fold, m fencedlog.Message) {
	e.f, e.m, e.part, e.letters, e.holds, e.emitted = f, m, 0, 0, false, false
	e.trace = trace.SpanContext{}
}

func (e *emitter) Append(lane int, encode func([]byte) []byte) error {
	if !e.allowed[lane] {
		return fmt.Errorf("append to lane %d, which is not among the lane's outputs", lane)
	}
	part := e.part
	e.part++
	e.emitted = true
	if e.f.inLog(e.m.Sequence, part) {
		return nil
	}
	data := encode(e.buffer())
	e.keep(data)
	if e.holds {
		if err := e.send(e.held); err != nil {
			return err
		}
	}
	e.held, e.holds = output{lane: lane, position: position{e.f.epoch, e.m.Sequence, part}, data: data, trace: e.trace}, true
	return nil
}

func (e *emitter) Refuse(refusals []deadletters.Refusal) error {
	if len(refusals) == 0 {
		return nil
	}
	e.emitted = true
	p := position{e.f.epoch, e.m.Sequence, e.letters}
	e.letters++
	return e.send(output{position: p, refusals: refusals})
}

func (e *emitter) end() error {
	if !e.holds {
		return nil
	}
	e.holds = false
	e.held.position.part = whole
	return e.send(e.held)
}

func (e *emitter) send(o output) error {
	o.input = fencedlog.Mark{Sequence: o.position.step, Time: e.m.Time}
	if o.save != nil {
		o.input = fencedlog.Mark{Sequence: o.save.manifest.GetCoveredSequence(), Time: time.Unix(0, o.save.manifest.GetCoveredTimeNs())}
	}
	select {
	case e.outputs <- o:
		return nil
	case <-e.ctx.Done():
		return context.Cause(e.ctx)
	}
}

// buffer returns memory for a message. There are as many as can be in the queue, one in the hands of publish, one held, and
// one that is being filled, so that the oldest is free again.
func (e *emitter) buffer() []byte {
	if e.buffers == nil {
		e.buffers = make([][]byte, queue+3)
	}
	b := e.buffers[0]
	copy(e.buffers, e.buffers[1:])
	if hint := len(e.m.Data); e.part == 1 && cap(b) < hint+512 {
		b = make([]byte, 0, hint+hint/4+512)
	}
	return b[:0]
}

// keep remembers the memory of a message, which may have grown, as the newest.
func (e *emitter) keep(b []byte) { e.buffers[len(e.buffers)-1] = b }
