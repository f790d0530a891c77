package kafka

import "github.com/rcrowley/go-metrics"

// noMetrics is a registry in which nothing is counted. sarama marks meters and samples histograms for every request
// and fetch, which costs CPU and a ticking goroutine, and nobody reads them: our own metrics count events.
type noMetrics struct{}

// GetOrRegister answers the constructors that sarama passes with what they make, minus the work.
func (noMetrics) GetOrRegister(_ string, metric any) any {
	switch metric.(type) {
	case func() metrics.Counter:
		return metrics.NilCounter{}
	case func() metrics.Gauge:
		return metrics.NilGauge{}
	case func() metrics.Histogram:
		return metrics.NilHistogram{}
	case func() metrics.Meter:
		return metrics.NilMeter{}
	case func() metrics.Timer:
		return metrics.NilTimer{}
	}
	return metric
}

func (noMetrics) Each(func(string, any))            {}
func (noMetrics) Get(string) any                    { return nil }
func (noMetrics) GetAll() map[string]map[string]any { return nil }
func (noMetrics) Register(string, any) error        { return nil }
func (noMetrics) RunHealthchecks()                  {}
func (noMetrics) Unregister(string)                 {}
func (noMetrics) UnregisterAll()                    {}
