package service

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/nats-io/nats.go"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/otel/attribute"
	otelprom "go.opentelemetry.io/otel/exporters/prometheus"
	"go.opentelemetry.io/otel/metric"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"

	stagev1 "sluice/gen/sluice/stage/v1"
)

// owned is a stage that owns what it says.
type owned struct {
	Stage
	units []*stagev1.UnitStatus
}

func (o owned) Status(string) []*stagev1.UnitStatus { return o.units }

// knower is a stage that knows pipelines.
type knower struct {
	Stage
	pipelines map[string]bool
}

func (k knower) Status(string) []*stagev1.UnitStatus { return nil }
func (k knower) Knows(pipeline string) bool          { return k.pipelines[pipeline] }

// text is what Prometheus gets to see.
func text(g prometheus.Gatherer) string {
	w := httptest.NewRecorder()
	promhttp.HandlerFor(g, promhttp.HandlerOpts{}).ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/metrics", nil))
	return w.Body.String()
}

func TestMetricsOfADeletedPipelineGoAway(t *testing.T) {
	reg, provider, err := newMetrics("sink", &nats.Conn{})
	require.NoError(t, err)
	counter, err := provider.Meter("sluice/sink").Int64Counter("sluice.sink.rows")
	require.NoError(t, err)
	stages := &stageServer{}
	shown := living{reg, stages}
	counter.Add(t.Context(), 1, metric.WithAttributes(attribute.String("pipeline", "a")))
	counter.Add(t.Context(), 2, metric.WithAttributes(attribute.String("pipeline", "b")))
	require.Contains(t, text(shown), `sluice_sink_rows_total{pipeline="a"} 1`, "nobody knows yet which there are")

	first, second := knower{pipelines: map[string]bool{"a": true}}, knower{pipelines: map[string]bool{"b": true}}
	stages.add(first)
	require.Contains(t, text(shown), `sluice_sink_rows_total{pipeline="a"} 1`)
	require.NotContains(t, text(shown), `pipeline="b"`)
	stages.add(second)
	require.Contains(t, text(shown), `sluice_sink_rows_total{pipeline="b"} 2`, "one stage has heard of it")

	delete(first.pipelines, "a")
	delete(second.pipelines, "b")
	require.NotContains(t, text(shown), "sluice_sink_rows")
	require.Contains(t, text(shown), "sluice_build_info{")
	first.pipelines["a"] = true
	require.Contains(t, text(shown), `sluice_sink_rows_total{pipeline="a"} 1`, "what it counted is not lost")
}

// The library has a limit of 2000 series an instrument.
func TestEveryPartitionHasANumber(t *testing.T) {
	const partitions = 5000
	reg, provider, err := newMetrics("ingestor", &nats.Conn{})
	require.NoError(t, err)
	var units []*stagev1.UnitStatus
	for i := range uint32(partitions) {
		units = append(units, &stagev1.UnitStatus{Pipeline: "p", Stage: "ingest", Unit: i, Lag: 1})
	}
	stages := &stageServer{}
	stages.add(owned{units: units})
	require.NoError(t, observeUnits(provider.Meter("sluice"), stages))
	require.Equal(t, partitions, strings.Count(text(reg), "\nsluice_partition_lag{partition="))
}

func TestUnitsShowWhereTheyAreOwned(t *testing.T) {
	reg := prometheus.NewRegistry()
	exporter, err := otelprom.New(otelprom.WithRegisterer(reg), otelprom.WithoutScopeInfo(), otelprom.WithoutTargetInfo())
	require.NoError(t, err)
	stages := &stageServer{}
	require.NoError(t, observeUnits(sdkmetric.NewMeterProvider(sdkmetric.WithReader(exporter)).Meter("sluice"), stages))
	scrape := func() string { return text(reg) }
	require.NotContains(t, scrape(), "sluice_partition_lag{")
	stages.add(owned{units: []*stagev1.UnitStatus{{
		Pipeline: "p", Stage: "ingest", Unit: 3, Source: "orders", Lag: 7, LostOffsets: 2, Condition: stagev1.UnitStatus_WAITING,
	}}})
	stages.add(owned{units: []*stagev1.UnitStatus{
		{Pipeline: "p", Stage: "join", Unit: 1, Lag: 5, StateKeys: 10, StateBytes: 400, HealedRows: 1, Condition: stagev1.UnitStatus_RUNNING,
			BufferedRows: map[string]uint64{"orders": 4}, WatermarkMs: map[string]int64{"orders": 1500}},
		{Pipeline: "p", Stage: "sink", Unit: 0},
	}})
	body := scrape()
	for _, want := range []string{
		`sluice_partition_lag{partition="3",pipeline="p",source="orders",stage="ingest"} 7`,
		`sluice_partition_lost_total{partition="3",pipeline="p",source="orders",stage="ingest"} 2`,
		`sluice_unit_waiting{partition="3",pipeline="p",source="orders",stage="ingest"} 1`,
		`sluice_unit_waiting{lane="1",pipeline="p",stage="join"} 0`,
		`sluice_lane_lag{lane="1",pipeline="p",stage="join"} 5`,
		`sluice_lane_lag{lane="0",pipeline="p",stage="sink"} 0`,
		`sluice_lane_state_keys{lane="1",pipeline="p",stage="join"} 10`,
		`sluice_lane_state_size_bytes{lane="1",pipeline="p",stage="join"} 400`,
		`sluice_lane_healed_total{lane="1",pipeline="p",stage="join"} 1`,
		`sluice_join_buffered{lane="1",pipeline="p",source="orders",stage="join"} 4`,
		`sluice_join_watermark_seconds{lane="1",pipeline="p",source="orders",stage="join"} 1.5`,
	} {
		require.Contains(t, body, want)
	}
	require.NotContains(t, body, `sluice_lane_state_keys{lane="0"`)
}
