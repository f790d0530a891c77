package service

import (
	"slices"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
)

// living shows the metrics of the pipelines that there are. A counter cannot be taken back once it has counted, so those
// of a pipeline that was deleted would be shown, and stored by Prometheus, as long as the process runs.
type living struct {
	prometheus.Gatherer
	stages *stageServer
}

// Gather is prometheus.Gatherer.
func (l living) Gather() ([]*dto.MetricFamily, error) {
	families, err := l.Gatherer.Gather()
	known := map[string]bool{}
	for _, family := range families {
		family.Metric = slices.DeleteFunc(family.Metric, func(m *dto.Metric) bool {
			for _, label := range m.GetLabel() {
				if label.GetName() != "pipeline" {
					continue
				}
				id := label.GetValue()
				if _, asked := known[id]; !asked {
					known[id] = l.stages.knows(id)
				}
				return !known[id]
			}
			return false
		})
	}
	// A name without a value is not allowed in Prometheus' format.
	return slices.DeleteFunc(families, func(f *dto.MetricFamily) bool { return len(f.GetMetric()) == 0 }), err
}
