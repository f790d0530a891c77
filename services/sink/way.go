package sink

import (
	"context"
	"time"

	"go.opentelemetry.io/otel/trace"

	eventv1 "sluice/gen/sluice/event/v1"
	"sluice/libs/batch"
	"sluice/libs/fencedlog"
	"sluice/libs/receipts"
	"sluice/libs/telemetry"
)

// maxNotes bounds the batches of a block that are remembered for its spans and its receipt.
const maxNotes = 2000

// note is what a batch of a block leaves for spans, latency and the receipt.
type note struct {
	read     time.Time
	trace    trace.SpanContext
	writer   string
	bytes    int
	oldestMS int64
	batch    *eventv1.BatchReceipt
}

// note remembers a message of the block.
func (a *assembler) note(msg *fencedlog.Message, v *batch.View, now time.Time) {
	if v.Rows == 0 || len(a.notes) == maxNotes {
		return
	}
	n := note{
		read: now, trace: telemetry.Parse(v.Traceparent), writer: msg.Writer, bytes: len(msg.Data), oldestMS: v.OldestMS,
	}
	var id []byte
	if n.trace.IsSampled() {
		traceID := n.trace.TraceID()
		id = traceID[:]
	}
	n.batch = receipts.Describe(v, msg.Sequence, id)
	a.notes = append(a.notes, n)
}

// receipt publishes what became of a block. That it cannot is nobody's concern: see package receipts.
func (l *lane) receipt(ctx context.Context, b *filled, epoch uint32, refused uint64, began, done time.Time, token string) {
	if l.publish == nil || len(b.rows.notes) == 0 {
		return
	}
	r := &eventv1.Receipt{
		Lane: uint32(l.index), FirstSequence: b.plan.First, LastSequence: b.plan.Last, Rows: uint64(b.rows.count), Refused: refused,
		BeganMs: began.UnixMilli(), DoneMs: done.UnixMilli(), Token: token, Epoch: epoch, LastTimeNs: b.plan.LastStored.UnixNano(),
	}
	if sc := trace.SpanContextFromContext(ctx); sc.IsSampled() {
		id := sc.TraceID()
		r.TraceId = id[:]
	}
	for _, n := range b.rows.notes {
		r.Batches = append(r.Batches, n.batch)
	}
	if err := l.publish(r); err != nil {
		l.log.Debug("no receipt", "error", err)
	}
}
