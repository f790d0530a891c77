package lanes

import (
	"context"
	"errors"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/metric/noop"
)

// metrics count the changes of lanes of this instance.
type metrics struct {
	stage attribute.KeyValue
	taken metric.Int64Counter
	gone  metric.Int64Counter
}

func newMetrics(m metric.Meter, stage string) *metrics {
	if m == nil {
		m = noop.Meter{}
	}
	out := &metrics{stage: attribute.String("stage", stage)}
	var errs [2]error
	out.taken, errs[0] = m.Int64Counter("sluice.leases.taken", metric.WithUnit("{lane}"),
		metric.WithDescription("Lanes that this instance began to work on."))
	out.gone, errs[1] = m.Int64Counter("sluice.leases.ended", metric.WithUnit("{lane}"),
		metric.WithDescription("Lanes that this instance ceased to work on, by reason."))
	if errors.Join(errs[:]...) != nil {
		// Only names that are no names fail; these are.
		return newMetrics(nil, stage)
	}
	for _, cause := range []error{ErrLost, ErrRebalance, ErrChanged, ErrUnwanted, ErrStopping} {
		// There from the start, so that the first one is an increase.
		out.gone.Add(context.Background(), 0, metric.WithAttributes(out.stage, attribute.String("reason", reason(cause))))
	}
	return out
}

func (m *metrics) started() { m.taken.Add(context.Background(), 1, metric.WithAttributes(m.stage)) }

func (m *metrics) ended(cause error) {
	m.gone.Add(context.Background(), 1, metric.WithAttributes(m.stage, attribute.String("reason", reason(cause))))
}

// reason is the end of a lane in a word.
func reason(cause error) string {
	switch {
	case errors.Is(cause, ErrLost):
		return "lost"
	case errors.Is(cause, ErrRebalance):
		return "rebalance"
	case errors.Is(cause, ErrChanged):
		return "changed"
	case errors.Is(cause, ErrUnwanted):
		return "unwanted"
	case errors.Is(cause, ErrStopping):
		return "stopping"
	}
	return "other"
}
