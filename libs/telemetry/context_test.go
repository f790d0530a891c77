package telemetry

import (
	"testing"

	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"
)

const example = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"

func TestTraceparentGoesThereAndBack(t *testing.T) {
	for _, text := range []string{example, "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00"} {
		sc := Parse([]byte(text))
		require.True(t, sc.IsValid())
		require.True(t, sc.IsRemote())
		require.Equal(t, text, string(Traceparent(sc)))
	}
	require.Nil(t, Traceparent(trace.SpanContext{}))
	require.Equal(t, example, string(Traceparent(Parse([]byte("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-ff")))),
		"flags that are not known are not passed on")
}

// TestParseAgreesWithTheLibrary holds Parse against OpenTelemetry's own reader.
func TestParseAgreesWithTheLibrary(t *testing.T) {
	texts := []string{
		example, "", "00", example[1:], example + "0", example + "-00", example[:54], "ff" + example[2:], "01" + example[2:],
		"cc" + example[2:] + "-what-the-future-brings", "cc" + example[2:] + ".what", "0g" + example[2:],
		"00-00000000000000000000000000000000-00f067aa0ba902b7-01", "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
		"00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01", "00-4bf92f3577b34da6a3ce929d0e0e473g-00f067aa0ba902b7-01",
		"00_4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-0A",
	}
	for _, text := range texts {
		carrier := propagation.MapCarrier{"traceparent": text}
		want := trace.SpanContextFromContext(propagation.TraceContext{}.Extract(t.Context(), carrier))
		got := Parse([]byte(text))
		require.Equal(t, want.IsValid(), got.IsValid(), "%q", text)
		require.Equal(t, want.TraceID(), got.TraceID(), "%q", text)
		require.Equal(t, want.SpanID(), got.SpanID(), "%q", text)
		require.Equal(t, want.IsSampled(), got.IsSampled(), "%q", text)
	}
}

func spanContext(span byte, sampled bool) trace.SpanContext {
	c := trace.SpanContextConfig{TraceID: trace.TraceID{1, span}, SpanID: trace.SpanID{span}}
	if sampled {
		c.TraceFlags = trace.FlagsSampled
	}
	return trace.NewSpanContext(c)
}

func TestMerge(t *testing.T) {
	var m Merge
	m.Add(trace.SpanContext{})
	require.False(t, m.Parent().IsValid())
	m.Add(spanContext(1, false))
	require.Equal(t, spanContext(1, false), m.Parent())
	m.Add(spanContext(2, true))
	require.Equal(t, spanContext(2, true), m.Parent(), "a sampled one comes before one that is not")
	m.Add(spanContext(2, true))
	m.Add(spanContext(3, false))
	require.Empty(t, m.Others())
	for i := range MaxLinks + 5 {
		m.Add(spanContext(byte(10+i), true))
		m.Add(spanContext(byte(10+i), true))
	}
	require.Len(t, m.Links(), MaxLinks)
	require.Equal(t, spanContext(10, true), m.Links()[0].SpanContext)
	require.GreaterOrEqual(t, m.Left(), 5)
	left := m.Left()
	m.AddText([]byte(example))
	require.Equal(t, left+1, m.Left())
	m.Reset()
	require.False(t, m.Parent().IsValid())
	require.Empty(t, m.Others())
	require.Zero(t, m.Left())
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(example))
	f.Fuzz(func(t *testing.T, text []byte) {
		if sc := Parse(text); sc.IsValid() {
			require.Equal(t, string(text[3:52]), string(Traceparent(sc)[3:52]))
		}
	})
}
