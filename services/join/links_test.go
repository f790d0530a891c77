package join

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/otel/trace"

	"sluice/libs/batch"
	"sluice/libs/fold"
	"sluice/libs/telemetry"
	"sluice/services/join/internal/state"
)

// linked is a links and what it has linked the present step with.
type linked struct {
	links
	t    *testing.T
	with []byte // last byte of the span ids
}

// step begins the step of a batch whose context ends with span, of the rows at the given offsets.
func (l *linked) step(side state.Side, partition int32, writer string, span byte, mixed bool, offsets ...int64) {
	l.t.Helper()
	var b batch.Builder
	for _, at := range offsets {
		b.Add(batch.Row{Offset: at}, batch.Fields{})
	}
	v := &batch.View{Partition: partition, Traceparent: fmt.Appendf(nil, "00-%032x-%016x-01", 7, span)}
	if len(offsets) > 0 {
		b.View(v, func(dst []byte) []byte { return dst })
	}
	l.with = nil
	l.begin(fold.Input{Writer: writer, View: v, Link: func(sc trace.SpanContext) {
		id := sc.SpanID()
		l.with = append(l.with, id[7])
	}}, side, mixed)
}

func (l *linked) rows(side state.Side, partition int32, offsets ...int64) []byte {
	for _, at := range offsets {
		l.row(&state.Row{Side: side, Partition: partition, Offset: at})
	}
	return l.with
}

func TestStepsAreLinkedWithWhatTheyWaitedFor(t *testing.T) {
	l := &linked{t: t}
	l.step(state.Left, 0, "orders-0", 1, false, 10, 11, 12)
	l.step(state.Left, 0, "orders-0", 2, false, 20, 22)
	l.step(state.Left, 1, "orders-1", 3, false, 10, 11)
	l.step(state.Right, 0, "users-0", 4, false, 10, 11)
	require.Equal(t, []byte{2, 3}, append([]byte(nil), l.rows(state.Left, 0, 20, 22)[0], l.rows(state.Left, 1, 11, 10)[1]))
	require.Equal(t, []byte{2, 3, 1}, l.rows(state.Left, 0, 12, 10), "each batch once a step")
	require.Equal(t, []byte{2, 3, 1}, l.rows(state.Right, 0, 10, 11), "its own batch is no other")
	require.Len(t, l.rows(state.Left, 0, 9, 13, 23), 3, "offsets that were in no batch")
	l.step(state.Right, 0, "users-0", 5, false)
	require.Equal(t, []byte{4, 1}, append(l.rows(state.Right, 0, 10), l.rows(state.Left, 0, 10)[1]), "the next step begins anew")
	l.link = nil
	require.Len(t, l.rows(state.Left, 1, 10), 2, "a step without a span")
}

// TestAMessageGoesOnFromOneOfItsRows: from the present batch's if it has any.
func TestAMessageGoesOnFromOneOfItsRows(t *testing.T) {
	l := &linked{t: t}
	parent := func() byte {
		id := telemetry.Parse(l.parent([]byte("00-00000000000000000000000000000007-00000000000000ff-01"))).SpanID()
		return id[7]
	}
	l.step(state.Left, 0, "orders-0", 1, false, 10, 11)
	l.step(state.Left, 0, "orders-0", 2, false, 12, 13)
	require.EqualValues(t, 255, parent(), "no rows")
	l.rows(state.Left, 0, 10)
	require.EqualValues(t, 1, parent())
	l.rows(state.Left, 0, 13)
	require.EqualValues(t, 255, parent())
	l.message()
	l.rows(state.Left, 0, 11)
	require.EqualValues(t, 1, parent())
	l.step(state.Right, 0, "users-0", 3, false)
	l.rows(state.Left, 0, 13, 11)
	require.EqualValues(t, 2, parent())
	require.Equal(t, []byte{2, 1}, l.with)
}

// TestWhoWritesAPartitionIsTold where its batches were taken apart: their ranges of offsets overlap.
func TestWhoWritesAPartitionIsTold(t *testing.T) {
	l := &linked{t: t}
	l.step(state.Left, 0, "0", 1, true, 10, 12, 14)
	l.step(state.Left, 0, "1", 2, true, 11, 15)
	l.step(state.Right, 0, "0", 3, true)
	require.Equal(t, []byte{2, 1}, l.rows(state.Left, 0, 15, 14))
	require.Len(t, l.rows(state.Left, 0, 13), 2)
}

// TestOffsetsGivenOutAnew belong to the newer batch.
func TestOffsetsGivenOutAnew(t *testing.T) {
	l := &linked{t: t}
	l.step(state.Left, 0, "0", 1, false, 10, 11)
	l.step(state.Left, 0, "0", 2, false, 12, 13)
	l.step(state.Left, 0, "0", 3, false, 11, 12)
	l.step(state.Right, 0, "0", 4, false)
	require.Equal(t, []byte{3}, l.rows(state.Left, 0, 12, 11, 13))
}

func TestLinksAreBounded(t *testing.T) {
	l := &linked{t: t}
	for n := range int64(maxSeen + 100) {
		l.step(state.Left, int32(n%3), "0", byte(n), false, n)
	}
	require.Len(t, l.order, maxSeen)
	kept := 0
	for _, lines := range l.lines {
		for _, line := range lines {
			kept += len(line.batches)
		}
	}
	require.Equal(t, maxSeen, kept)
	l.step(state.Right, 0, "0", 0, false)
	for n := range int64(maxSeen + 100) {
		l.rows(state.Left, int32(n%3), n)
	}
	require.Len(t, l.with, telemetry.MaxLinks)
	l = &linked{t: t}
	for n := range int64(100) {
		l.step(state.Left, 0, "0", 1, true, n*maxSeenBytes, (n+1)*maxSeenBytes-1)
	}
	require.LessOrEqual(t, l.bytes, maxSeenBytes)
	require.Len(t, l.order, 8)
}
