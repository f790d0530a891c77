package telemetry

import "go.opentelemetry.io/otel/trace"

// MaxLinks bounds the contexts that a span is linked with: where thousands of records with a trace each come together in
// a batch, a span for each would be the end of batching.
const MaxLinks = 32

// Merge collects the contexts that come together in one span. Its zero value is empty. The first one that is sampled
// becomes the parent, else the first; further sampled ones become links, up to MaxLinks.
type Merge struct {
	parent trace.SpanContext
	others []trace.SpanContext
	more   int // contexts beyond MaxLinks, of which nothing is kept
}

// Add takes a context. One that is not valid, or the same as the one before, adds nothing.
func (m *Merge) Add(sc trace.SpanContext) {
	switch {
	case !sc.IsValid():
	case !m.parent.IsValid(), sc.IsSampled() && !m.parent.IsSampled():
		m.parent = sc
	case !sc.IsSampled(), sc.SpanID() == m.last().SpanID() && sc.TraceID() == m.last().TraceID():
	case len(m.others) == MaxLinks:
		m.more++
	default:
		m.others = append(m.others, sc)
	}
}

// AddText adds a traceparent. It costs next to nothing once there is no room for another.
func (m *Merge) AddText(text []byte) {
	if m.parent.IsSampled() && len(m.others) == MaxLinks {
		m.more++
		return
	}
	m.Add(Parse(text))
}

func (m *Merge) last() trace.SpanContext {
	if n := len(m.others); n > 0 {
		return m.others[n-1]
	}
	return m.parent
}

// Parent is the context to go on from; not valid when there was none.
func (m *Merge) Parent() trace.SpanContext { return m.parent }

// Others are the sampled contexts besides the parent. They are valid until Reset.
func (m *Merge) Others() []trace.SpanContext { return m.others }

// Links are the others as links of a span.
func (m *Merge) Links() []trace.Link {
	links := make([]trace.Link, len(m.others))
	for i, sc := range m.others {
		links[i].SpanContext = sc
	}
	return links
}

// Left is how many contexts came beyond MaxLinks.
func (m *Merge) Left() int { return m.more }

// Reset forgets all and keeps the memory.
func (m *Merge) Reset() { m.parent, m.others, m.more = trace.SpanContext{}, m.others[:0], 0 }
