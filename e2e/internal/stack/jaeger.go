//go:build unix

package stack

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// Jaeger is a real collector with its query API.
type Jaeger struct {
	*Process
	// Endpoint takes OTLP over gRPC, HTTPEndpoint over HTTP.
	Endpoint, HTTPEndpoint string

	t     testing.TB
	query string
}

// StartJaeger starts a Jaeger that keeps its traces in memory. tools/install-parts builds it; a test without one is skipped,
// and fails in CI.
func StartJaeger(t testing.TB) *Jaeger {
	t.Helper()
	cache, err := os.UserCacheDir()
	require.NoError(t, err)
	path := filepath.Join(cache, "sluice", "jaeger-1.76.0", "jaeger")
	if _, err := os.Stat(path); err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatalf("Jaeger is not there; run make parts: %v", err)
		}
		t.Skipf("Jaeger is not there; run make parts: %v", err)
	}
	a := FreeAddrs(t, 7)
	j := &Jaeger{t: t, Endpoint: "http://" + a[0], HTTPEndpoint: "http://" + a[1], query: "http://" + a[2]}
	j.Process = NewProcess(t, "jaeger", path, []string{
		"--collector.otlp.grpc.host-port", a[0], "--collector.otlp.http.host-port", a[1], "--query.http-server.host-port", a[2],
		"--query.grpc-server.host-port", a[3], "--collector.grpc-server.host-port", a[4], "--collector.http-server.host-port", a[5],
		"--admin.http.host-port", a[6], "--memory.max-traces", "20000", "--log-level", "warn",
	}, []string{"SPAN_STORAGE_TYPE=memory", "OTEL_TRACES_SAMPLER=always_off"})
	j.Start()
	for _, addr := range a[:3] {
		WaitListen(t, addr)
	}
	return j
}

// Span is a span as Jaeger tells it.
type Span struct {
	TraceID, ID, Parent string
	Service, Name, Kind string
	Start               time.Time
	Duration            time.Duration
	Tags                map[string]string
	Links               []string // ids of the spans that it is linked with
}

// Trace returns the spans of a trace that Jaeger has by now.
func (j *Jaeger) Trace(id string) []Span {
	j.t.Helper()
	return j.ask("/api/traces/" + id)
}

// Traces returns the spans of the newest traces of a service that have the tags.
func (j *Jaeger) Traces(service string, tags map[string]string) []Span {
	j.t.Helper()
	text, err := json.Marshal(tags)
	require.NoError(j.t, err)
	return j.ask("/api/traces?limit=1000&service=" + url.QueryEscape(service) + "&tags=" + url.QueryEscape(string(text)))
}

func (j *Jaeger) ask(path string) (out []Span) {
	j.t.Helper()
	resp, err := http.Get(j.query + path)
	require.NoError(j.t, err)
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	require.NoError(j.t, err)
	if resp.StatusCode == http.StatusNotFound {
		return nil
	}
	require.Equal(j.t, http.StatusOK, resp.StatusCode, string(body))
	var answer struct {
		Data []struct {
			Processes map[string]struct{ ServiceName string }
			Spans     []struct {
				TraceID, SpanID, OperationName, ProcessID string
				References                                []struct{ RefType, TraceID, SpanID string }
				StartTime, Duration                       int64
				Tags                                      []struct {
					Key   string
					Value any
				}
			}
		}
	}
	require.NoError(j.t, json.Unmarshal(body, &answer))
	for _, trace := range answer.Data {
		for _, s := range trace.Spans {
			span := Span{
				TraceID: s.TraceID, ID: s.SpanID, Service: trace.Processes[s.ProcessID].ServiceName, Name: s.OperationName,
				Start: time.UnixMicro(s.StartTime), Duration: time.Duration(s.Duration) * time.Microsecond, Tags: map[string]string{},
			}
			for _, ref := range s.References {
				if ref.RefType == "CHILD_OF" && ref.TraceID == s.TraceID && span.Parent == "" {
					span.Parent = ref.SpanID
				} else {
					span.Links = append(span.Links, ref.SpanID)
				}
			}
			for _, tag := range s.Tags {
				span.Tags[tag.Key] = fmt.Sprint(tag.Value)
			}
			span.Kind = span.Tags["span.kind"]
			out = append(out, span)
		}
	}
	return out
}
