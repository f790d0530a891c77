package control

import (
	"context"
	"fmt"
	"strings"
	"sync/atomic"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/metric/noop"
	"google.golang.org/grpc/status"

	controlv1 "sluice/gen/sluice/control/v1"
	"sluice/libs/service"
)

// metrics are what the service counts of its own; the calls that it answers are counted by the shell. Labels: the outcome of a round, the
// class of an error (a gRPC code), the state of a pipeline, a pipeline.
type metrics struct {
	rounds   metric.Int64Counter
	failures metric.Int64Counter
	restored metric.Int64Counter       // records put back
	states   [len(states)]atomic.Int64 // pipelines by desired state, by index in states
	orphans  atomic.Int64              // pipelines without a record
	// guaranteesLost is, by pipeline, 1 if its table promises less than when it was applied.
	guaranteesLost atomic.Pointer[map[string]int64]
}

var states = [...]controlv1.DesiredState{controlv1.DesiredState_RUNNING, controlv1.DesiredState_PAUSED, controlv1.DesiredState_DELETING}

func newMetrics(m metric.Meter) (*metrics, error) {
	if m == nil {
		m = noop.Meter{}
	}
	out := &metrics{}
	var errs [6]error
	out.rounds, errs[0] = m.Int64Counter("sluice.control.rounds", metric.WithUnit("{round}"),
		metric.WithDescription("Looks after the streams and buckets of all pipelines, by outcome: well, or failed for some."))
	out.failures, errs[1] = m.Int64Counter("sluice.control.failures", metric.WithUnit("{failure}"),
		metric.WithDescription("Pipelines whose streams and buckets could not be looked after, or whose deletion could not go on, by class; it is tried again."))
	_, errs[2] = m.Int64ObservableGauge("sluice.control.pipelines", metric.WithUnit("{pipeline}"), metric.WithDescription("Pipelines by the state that is wanted."),
		metric.WithInt64Callback(func(_ context.Context, o metric.Int64Observer) error {
			for i, state := range states {
				o.Observe(out.states[i].Load(), metric.WithAttributes(attribute.String("state", strings.ToLower(state.String()))))
			}
			return nil
		}))
	_, errs[3] = m.Int64ObservableGauge("sluice.control.orphans", metric.WithUnit("{pipeline}"),
		metric.WithDescription("Pipelines without a record whose streams hold data: the registry has lost them."),
		metric.WithInt64Callback(func(_ context.Context, o metric.Int64Observer) error {
			o.Observe(out.orphans.Load())
			return nil
		}))
	out.restored, errs[4] = m.Int64Counter("sluice.control.records.restored", metric.WithUnit("{record}"),
		metric.WithDescription("Records of pipelines whose last change the registry had lost, put back from their copies."))
	_, errs[5] = m.Int64ObservableGauge("sluice.control.guarantee.lost", metric.WithUnit("{pipeline}"),
		metric.WithDescription("1 if the pipeline's table guarantees less than when the pipeline was applied, else 0; as last looked at."),
		metric.WithInt64Callback(func(_ context.Context, o metric.Int64Observer) error {
			if lost := out.guaranteesLost.Load(); lost != nil {
				for id, n := range *lost {
					o.Observe(n, metric.WithAttributes(attribute.String("pipeline", id)))
				}
			}
			return nil
		}))
	for _, err := range errs {
		if err != nil {
			return nil, fmt.Errorf("make the metrics: %w", err)
		}
	}
	out.restored.Add(context.Background(), 0)                                                                  // so that it is there
	out.failures.Add(context.Background(), 0, metric.WithAttributes(attribute.String("class", "unavailable"))) // so that it is there
	return out, nil
}

// picture counts the pipelines.
func (m *metrics) picture(picture map[string]*controlv1.PipelineRecord) {
	var n [len(states)]int64
	for _, rec := range picture {
		for i, state := range states {
			if rec.GetDesired() == state {
				n[i]++
			}
		}
	}
	for i := range n {
		m.states[i].Store(n[i])
	}
}

func (m *metrics) round(ctx context.Context, well bool) {
	outcome := "well"
	if !well {
		outcome = "failed"
	}
	m.rounds.Add(ctx, 1, metric.WithAttributes(attribute.String("outcome", outcome)))
}

func (m *metrics) failed(ctx context.Context, err error) {
	class := strings.ToLower(status.Code(service.ToStatus(err)).String())
	m.failures.Add(ctx, 1, metric.WithAttributes(attribute.String("class", class)))
}

func (m *metrics) recordRestored(ctx context.Context) { m.restored.Add(ctx, 1) }
