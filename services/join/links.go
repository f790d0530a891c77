package join

import (
	"sort"

	"go.opentelemetry.io/otel/trace"

	"sluice/libs/fold"
	"sluice/libs/telemetry"
	"sluice/services/join/internal/state"
)

const (
	// maxSeen and maxSeenBytes bound the batches whose spans are remembered for the rows that wait.
	maxSeen      = 4096
	maxSeenBytes = 1 << 20
)

// links remembers in which span each of the newest batches was taken in, so that a step can be linked with those that have a part in
// what it puts out: a pair belongs to two traces. What it says is of no consequence for any row. It is empty after a restart but for what is
// replayed, and stays so while nothing is traced.
type links struct {
	lines map[partitionOf][]*line
	order []*seen // oldest first
	bytes int     // of the bitmaps
	steps uint64
	// Of the present step.
	link   func(trace.SpanContext) // nil: it has no span
	batch  *seen                   // what it takes in; nil: nothing that is traced
	linked int
	hit    *seen // the last one found
	// Of the present message.
	own   bool // it has a row of batch
	first trace.SpanContext
}

type partitionOf struct {
	side   state.Side
	number int32
}

// line is the batches of one partition that come from one writer: their offsets rise.
type line struct {
	writer  string
	batches []*seen
}

// seen is one batch.
type seen struct {
	of          partitionOf
	line        *line
	first, last int64
	rows        []byte // bitmap over first to last; nil: all that are asked for
	context     trace.SpanContext
	step        uint64 // the last one that was linked with it
}

// begin notes the batch of a step. mixed says that the offsets of a partition come through several writers, so that ranges say little.
func (l *links) begin(in fold.Input, side state.Side, mixed bool) {
	l.link, l.batch, l.linked, l.hit = in.Link, nil, 0, nil
	l.steps++
	l.message()
	v := in.View
	if v.Selected == 0 {
		return
	}
	sc := telemetry.Parse(v.Traceparent)
	if !sc.IsSampled() {
		return
	}
	b := &seen{of: partitionOf{side, v.Partition}, first: v.FirstOffset, last: v.LastOffset, context: sc, step: l.steps}
	if mixed {
		if b.last-b.first >= 8*maxSeenBytes {
			return
		}
		b.rows = make([]byte, (b.last-b.first)/8+1)
		for row := range v.Rows {
			if at := v.Offset(row) - b.first; v.Selects(row) {
				b.rows[at/8] |= 1 << (at % 8)
			}
		}
	}
	l.add(in.Writer, b)
	l.batch = b
}

func (l *links) add(writer string, b *seen) {
	if l.lines == nil {
		l.lines = map[partitionOf][]*line{}
	}
	for _, line := range l.lines[b.of] {
		if line.writer == writer {
			b.line = line
		}
	}
	if b.line == nil {
		b.line = &line{writer: writer}
		l.lines[b.of] = append(l.lines[b.of], b.line)
	}
	// Offsets that were given out anew push those of before out.
	for n := len(b.line.batches); n > 0 && b.line.batches[n-1].last >= b.first; n-- {
		b.line.batches = b.line.batches[:n-1]
	}
	b.line.batches = append(b.line.batches, b)
	l.order = append(l.order, b)
	l.bytes += len(b.rows)
	for len(l.order) > maxSeen || l.bytes > maxSeenBytes {
		old := l.order[0]
		l.order[0] = nil
		l.order = l.order[1:]
		l.bytes -= len(old.rows)
		if batches := old.line.batches; len(batches) > 0 && batches[0] == old {
			batches[0] = nil
			old.line.batches = batches[1:]
		}
	}
}

// message begins a message of the step.
func (l *links) message() { l.own, l.first = false, trace.SpanContext{} }

// parent is the context that a message goes on from: the step's if a row of its batch is in it, else that of the first row which
// has waited. It is in the trace of an event that is in the message, where there is one.
func (l *links) parent(step []byte) []byte {
	if l.own || !l.first.IsValid() {
		return step
	}
	return telemetry.Traceparent(l.first)
}

// row notes a row that the step puts out.
func (l *links) row(r *state.Row) {
	if len(l.order) == 0 {
		return
	}
	of := partitionOf{r.Side, r.Partition}
	if l.batch != nil && l.batch.of == of && l.batch.has(r.Offset) {
		l.own = true
		return
	}
	if l.linked == telemetry.MaxLinks && (l.own || l.first.IsValid()) {
		return
	}
	b := l.hit
	if b == nil || b.of != of || !b.has(r.Offset) {
		if b = l.find(of, r.Offset); b == nil {
			return
		}
		l.hit = b
	}
	if !l.first.IsValid() {
		l.first = b.context
	}
	if b.step != l.steps && l.link != nil && l.linked < telemetry.MaxLinks {
		b.step = l.steps
		l.linked++
		l.link(b.context)
	}
}

func (l *links) find(of partitionOf, offset int64) *seen {
	for _, line := range l.lines[of] {
		at := sort.Search(len(line.batches), func(i int) bool { return line.batches[i].last >= offset })
		if at < len(line.batches) && line.batches[at].has(offset) {
			return line.batches[at]
		}
	}
	return nil
}

func (s *seen) has(offset int64) bool {
	at := offset - s.first
	return at >= 0 && offset <= s.last && (s.rows == nil || s.rows[at/8]&(1<<(at%8)) != 0)
}
