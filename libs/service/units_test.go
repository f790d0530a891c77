package service

import (
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"github.com/stretchr/testify/require"
	otelprom "go.opentelemetry.io/otel/exporters/prometheus"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"

	stagev1 "sluice/gen/sluice/stage/v1"
)

// owned is a stage that owns what it says.
type owned struct {
	Stage
	units []*stagev1.UnitStatus
}

func (o owned) Status(string) []*stagev1.UnitStatus { return o.units }

func TestUnitsShowWhereTheyAreOwned(t *testing.T) {
	reg := prometheus.NewRegistry()
	exporter, err := otelprom.New(otelprom.WithRegisterer(reg), otelprom.WithoutScopeInfo(), otelprom.WithoutTargetInfo())
	require.NoError(t, err)
	stages := &stageServer{}
	require.NoError(t, observeUnits(sdkmetric.NewMeterProvider(sdkmetric.WithReader(exporter)).Meter("sluice"), stages))
	scrape := func() string {
		w := httptest.NewRecorder()
		promhttp.HandlerFor(reg, promhttp.HandlerOpts{}).ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/metrics", nil))
		return w.Body.String()
	}
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
