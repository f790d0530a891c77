package telemetry

import (
	"context"
	"encoding/hex"
	"slices"

	"go.opentelemetry.io/otel/trace"
)

// Header is the key of the trace context in a Kafka record's headers.
const Header = "traceparent"

// traceparentSize is the length of a W3C traceparent of version 00: version, trace id, span id and flags.
const traceparentSize = 2 + 1 + 32 + 1 + 16 + 1 + 2

// Parse reads a W3C traceparent. Of a later version than 00 what is known is read, as the standard says. What is not a
// traceparent gives a context that is not valid.
func Parse(text []byte) trace.SpanContext {
	if len(text) < traceparentSize || text[2] != '-' || text[35] != '-' || text[52] != '-' {
		return trace.SpanContext{}
	}
	later := text[0] != '0' || text[1] != '0'
	if len(text) > traceparentSize && (!later || text[traceparentSize] != '-') {
		return trace.SpanContext{}
	}
	var (
		version, flags [1]byte
		config         trace.SpanContextConfig
	)
	for _, part := range []struct {
		into []byte
		text []byte
	}{{version[:], text[:2]}, {config.TraceID[:], text[3:35]}, {config.SpanID[:], text[36:52]}, {flags[:], text[53:55]}} {
		if slices.ContainsFunc(part.text, isUpper) {
			return trace.SpanContext{}
		}
		if _, err := hex.Decode(part.into, part.text); err != nil {
			return trace.SpanContext{}
		}
	}
	if version[0] == 0xff {
		return trace.SpanContext{}
	}
	config.TraceFlags, config.Remote = trace.TraceFlags(flags[0])&trace.FlagsSampled, true
	sc := trace.NewSpanContext(config)
	if !sc.IsValid() {
		return trace.SpanContext{}
	}
	return sc
}

func isUpper(b byte) bool { return 'A' <= b && b <= 'Z' }

// Traceparent is the text form of a context; nil when it is not valid.
func Traceparent(sc trace.SpanContext) []byte {
	if !sc.IsValid() {
		return nil
	}
	id, span := sc.TraceID(), sc.SpanID()
	out := make([]byte, 0, traceparentSize)
	out = append(out, "00-"...)
	out = hex.AppendEncode(out, id[:])
	out = append(out, '-')
	out = hex.AppendEncode(out, span[:])
	out = append(out, '-')
	return hex.AppendEncode(out, []byte{byte(sc.TraceFlags() & trace.FlagsSampled)})
}

// Under returns ctx with sc as the parent of spans that are started; with none when sc is not valid.
func Under(ctx context.Context, sc trace.SpanContext) context.Context {
	return trace.ContextWithRemoteSpanContext(ctx, sc)
}
