package lanes

import (
	"bytes"
	"log/slog"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/otel/attribute"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
	"go.opentelemetry.io/otel/trace"

	controlv1 "sluice/gen/sluice/control/v1"
	stagev1 "sluice/gen/sluice/stage/v1"
	"sluice/libs/telemetry"
)

// TestALaneTellsOnceWhatItWaitsFor: however often the error comes again.
func TestALaneTellsOnceWhatItWaitsFor(t *testing.T) {
	var out bytes.Buffer
	l := newLane(Config{Stage: "sink"}, slog.New(telemetry.LogHandler(slog.NewTextHandler(&out, nil))), laneID{"p", 1}, &controlv1.PipelineRecord{})
	tell := func(condition stagev1.UnitStatus_Condition, why string) {
		l.Report(func(s *stagev1.UnitStatus) { s.Condition, s.LastError = condition, why })
		l.tell(l.snapshot())
	}
	tell(stagev1.UnitStatus_RUNNING, "")
	require.Empty(t, out.String())
	for range 3 {
		tell(stagev1.UnitStatus_WAITING, "ClickHouse is away")
	}
	tell(stagev1.UnitStatus_RUNNING, "")
	tell(stagev1.UnitStatus_RUNNING, "")
	traced := trace.NewSpanContext(trace.SpanContextConfig{TraceID: trace.TraceID{15: 10}, SpanID: trace.SpanID{7: 11}})
	l.Working(trace.ContextWithSpanContext(t.Context(), traced))
	tell(stagev1.UnitStatus_WAITING, "NATS is away")
	lines := strings.Split(strings.TrimSpace(out.String()), "\n")
	require.Len(t, lines, 3, out.String())
	require.Contains(t, lines[0], `level=WARN msg="the lane waits" pipeline=p lane=1 for="ClickHouse is away"`)
	require.Contains(t, lines[1], `level=INFO msg="the lane works again"`)
	require.Contains(t, lines[2], `for="NATS is away" trace_id=0000000000000000000000000000000a span_id=000000000000000b`)
	require.NotContains(t, lines[0], "trace_id")
}

func TestChangesOfLanesAreCounted(t *testing.T) {
	reader := sdkmetric.NewManualReader()
	m := newMetrics(sdkmetric.NewMeterProvider(sdkmetric.WithReader(reader)).Meter("x"), "sink")
	m.started()
	for _, cause := range []error{ErrLost, ErrRebalance, ErrChanged, ErrUnwanted, ErrStopping, nil} {
		m.ended(cause)
	}
	var all metricdata.ResourceMetrics
	require.NoError(t, reader.Collect(t.Context(), &all))
	got := map[string]int64{}
	for _, metric := range all.ScopeMetrics[0].Metrics {
		for _, point := range metric.Data.(metricdata.Sum[int64]).DataPoints {
			reason, _ := point.Attributes.Value(attribute.Key("reason"))
			require.Positive(t, point.Value)
			got[metric.Name+" "+reason.AsString()] = point.Value
		}
	}
	require.Equal(t, map[string]int64{
		"sluice.leases.taken ": 1, "sluice.leases.ended lost": 1, "sluice.leases.ended rebalance": 1, "sluice.leases.ended changed": 1,
		"sluice.leases.ended unwanted": 1, "sluice.leases.ended stopping": 1, "sluice.leases.ended other": 1,
	}, got)
}
