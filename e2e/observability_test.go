//go:build unix

package e2e

import (
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.yaml.in/yaml/v3"

	"sluice/e2e/internal/stack"
)

const (
	rulesDir      = "../deploy/prometheus"
	rulesFile     = rulesDir + "/rules.yml"
	dashboardsDir = "../deploy/grafana/dashboards"
)

// alerts are the expressions of the alert rules by name.
func alerts(t *testing.T) map[string]string {
	t.Helper()
	text, err := os.ReadFile(rulesFile)
	require.NoError(t, err)
	var file struct {
		Groups []struct {
			Rules []struct{ Alert, Expr string }
		}
	}
	require.NoError(t, yaml.Unmarshal(text, &file))
	out := map[string]string{}
	for _, group := range file.Groups {
		for _, rule := range group.Rules {
			out[rule.Alert] = rule.Expr
		}
	}
	require.NotEmpty(t, out)
	return out
}

// queries are the expressions of the dashboards' panels by title, with Grafana's variables filled in.
func queries(t *testing.T) map[string]string {
	t.Helper()
	paths, err := filepath.Glob(filepath.Join(dashboardsDir, "*.json"))
	require.NoError(t, err)
	require.NotEmpty(t, paths)
	variables := strings.NewReplacer("$__rate_interval", "1m", "$pipeline", ".*")
	out := map[string]string{}
	for _, path := range paths {
		text, err := os.ReadFile(path)
		require.NoError(t, err)
		var dashboard struct {
			Title  string
			Panels []struct {
				Title   string
				Targets []struct{ RefID, Expr string }
			}
		}
		require.NoError(t, json.Unmarshal(text, &dashboard))
		for _, panel := range dashboard.Panels {
			for _, target := range panel.Targets {
				out[fmt.Sprintf("%s: %s %s", dashboard.Title, panel.Title, target.RefID)] = variables.Replace(target.Expr)
			}
		}
	}
	require.NotEmpty(t, out)
	return out
}

// TestRules: promtool takes the alert rules, and the dashboards' queries as rules; and the alerts fire when they are to, and only then.
func TestRules(t *testing.T) {
	promtool, err := exec.LookPath("promtool")
	if err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatal("promtool is not there; run make parts")
		}
		t.Skip("promtool is not there; run make parts")
	}
	type rule struct {
		Record string `yaml:"record"`
		Expr   string `yaml:"expr"`
	}
	type group struct {
		Name  string `yaml:"name"`
		Rules []rule `yaml:"rules"`
	}
	panels := group{Name: "panels"}
	all := queries(t)
	for i, name := range slices.Sorted(maps.Keys(all)) {
		panels.Rules = append(panels.Rules, rule{fmt.Sprintf("panel:%d", i), all[name]})
	}
	text, err := yaml.Marshal(map[string]any{"groups": []group{panels}})
	require.NoError(t, err)
	path := filepath.Join(t.TempDir(), "panels.yml")
	require.NoError(t, os.WriteFile(path, text, 0o600))
	for _, path := range []string{rulesFile, path} {
		out, err := exec.Command(promtool, "check", "rules", path).CombinedOutput()
		require.NoError(t, err, "%s: %s", path, out)
	}
	out, err := exec.Command(promtool, "test", "rules", filepath.Join(rulesDir, "rules_test.yml")).CombinedOutput()
	require.NoError(t, err, "%s", out)
}

var (
	quoted     = regexp.MustCompile(`"[^"]*"`)
	metricName = regexp.MustCompile(`\b(?:sluice|process|go|rpc_server)_[a-z0-9_]+\b`)
	labelNames = regexp.MustCompile(`\bby \(([^)]*)\)`)
)

// TestMetrics: every metric that an alert or a dashboard asks for is there on a pipeline that runs, with the labels that it is
// grouped by; and it says what happened.
func TestMetrics(t *testing.T) {
	sluice, addrs := filepath.Join(bin(t), "sluice"), stack.FreeAddrs(t, 4)
	kafkaAddr, clickhouseAddr, grpcAddr, httpAddr := addrs[0], addrs[1], addrs[2], addrs[3]
	stack.NewProcess(t, "kafka", sluice, []string{"dev", "kafka", "--listen", kafkaAddr}, nil).Start()
	stack.NewProcess(t, "clickhouse", sluice, []string{"dev", "clickhouse", "--listen", clickhouseAddr}, nil).Start()
	standalone := stack.NewProcess(t, "standalone", sluice,
		[]string{"standalone", "--dir", t.TempDir(), "--grpc", grpcAddr, "--http", httpAddr}, nil)
	standalone.Start()
	stack.WaitListen(t, kafkaAddr)
	stack.WaitListen(t, clickhouseAddr)
	stack.WaitReady(t, "standalone", httpAddr)
	cli, table := stack.NewCLI(t, bin(t), grpcAddr), stack.OpenSQL(t, clickhouseAddr)
	for _, name := range []string{"events", "joined"} {
		table.Exec("CREATE TABLE " + name + " (id UInt32, note String DEFAULT '') ENGINE = MergeTree ORDER BY id SETTINGS non_replicated_deduplication_window = 1000")
	}
	producer, other := stack.NewProducer(t, kafkaAddr, "events", 2), stack.NewProducer(t, kafkaAddr, "others", 2)
	events := func(lanes int) string {
		return fmt.Sprintf(`
id: events
source: {kafka: {brokers: ["%s"], topic: events}}
dedup: {key: [id], window: 1h}
sink: {clickhouse: {addr: ["%s"], table: events}}
batch: {max_delay: 50ms}
lanes: %d
`, kafkaAddr, clickhouseAddr, lanes)
	}
	cli.Apply(events(2))
	cli.Apply(fmt.Sprintf(`
id: joined
sources:
  events: {kafka: {brokers: ["%[1]s"], topic: events}}
  others: {kafka: {brokers: ["%[1]s"], topic: others}}
join: {left: events, right: others, on: [{left: id, right: id}], window: 10m}
columns: [{name: id, from: events.id}, {name: note, from: others.note}]
sink: {clickhouse: {addr: ["%[2]s"], table: joined}}
batch: {max_delay: 50ms}
lanes: 2
`, kafkaAddr, clickhouseAddr))
	for id := range 10 {
		producer.Send(int32(id%2), nil, fmt.Appendf(nil, `{"id":%d}`, id))
		producer.Send(int32(id%2), nil, fmt.Appendf(nil, `{"id":%d}`, id))
		other.Send(int32(id%2), nil, fmt.Appendf(nil, `{"id":%d,"note":"n"}`, id))
	}
	producer.Send(0, nil, []byte(`{"note":"without a key"}`))
	producer.Send(1, nil, []byte(`{"id":`))
	producer.Send(1, nil, nil)
	producer.Flush()
	other.Flush()
	cli.Wait("events", stack.Up)
	require.Eventually(t, func() bool { return table.Count("joined") >= 20 }, stack.Up, 50*time.Millisecond)

	missing := func() []string {
		seen := labels(scrape(t, httpAddr))
		var out []string
		for _, set := range []map[string]string{alerts(t), queries(t)} {
			for name, expr := range set {
				plain := quoted.ReplaceAllString(expr, "")
				for _, metric := range metricName.FindAllString(plain, -1) {
					if seen[metric] == nil {
						out = append(out, name+": "+metric)
					}
				}
				// Grouping is by labels of a metric in the query, or of the target.
				for _, list := range labelNames.FindAllStringSubmatch(plain, -1) {
					for label := range strings.SplitSeq(list[1], ",") {
						label = strings.TrimSpace(label)
						if label == "instance" || label == "service" || slices.ContainsFunc(metricName.FindAllString(plain, -1), func(metric string) bool { return seen[metric][label] }) {
							continue
						}
						out = append(out, name+": by "+label)
					}
				}
			}
		}
		return out
	}
	var lacks []string
	require.Eventually(t, func() bool { lacks = missing(); return len(lacks) == 0 }, stack.Up, 500*time.Millisecond, "%v", &lacks)

	wants := []string{
		`sluice_ingest_records_total{pipeline="events"} 23`, `sluice_ingest_tombstones_total{pipeline="events"} 1`,
		`sluice_ingest_dead_letters_total{pipeline="events",reason="missing_key"} 1`,
		`sluice_ingest_dead_letters_total{pipeline="events",reason="invalid_json"} 1`, `sluice_dedup_duplicates_total{pipeline="events"} 10`,
		`sluice_join_joined_total{pipeline="joined"} 20`, `sluice_join_matched_total{pipeline="joined"} 20`, `sluice_join_late_total{pipeline="joined"} 0`,
		`sluice_join_dead_letters_total{pipeline="joined",reason="late"} 0`, `sluice_control_pipelines{state="running"} 2`,
		`sluice_control_pipelines{state="deleting"} 0`,

		`sluice_sink_rows_total{pipeline="events"} 10`, `sluice_unit_waiting{lane="0",pipeline="events",stage="sink"} 0`,
		`sluice_partition_lag{partition="1",pipeline="events",stage="ingest"} 0`,
		`sluice_sink_insert_failures_total{class="ambiguous",pipeline="events"} 0`,
	}
	var body string
	stack.Await(t, stack.Up, "the metrics say what happened", func() (bool, any) {
		body = scrape(t, httpAddr)
		left := slices.DeleteFunc(slices.Clone(wants), func(want string) bool { return strings.Contains(body, want+"\n") })
		return len(left) == 0, left
	})
	// Each event that passed was in a batch of which the latency was taken.
	require.Regexp(t, `rpc_server_call_duration_seconds_count\{rpc_method="sluice.control.v1.PipelineService/Create",rpc_response_status_code="OK",rpc_system_name="grpc"\} [1-9]`, body)
	require.Regexp(t, `sluice_control_rounds_total\{outcome="well"\} [1-9]`, body)
	require.Regexp(t, `sluice_build_info\{goversion="go[^"]+",service="standalone",version="[^"]+"\} 1`, body)
	require.Regexp(t, `sluice_latency_seconds_count\{pipeline="events"\} [1-9]`, body)
	require.NotContains(t, body, "slow consumer")
	labelled := func(label string) map[string]bool {
		seen := map[string]bool{}
		for _, m := range regexp.MustCompile(`(?m)^sluice_.*\b`+label+`="([^"]*)"`).FindAllStringSubmatch(scrape(t, httpAddr), -1) {
			seen[m[1]] = true
		}
		return seen
	}
	cli.Do("delete", "joined")
	stack.Await(t, stack.Up, "a deleted pipeline's metrics to go", func() (bool, any) {
		seen := labelled("pipeline")
		return seen["events"] && !seen["joined"], seen
	})
	cli.Apply(events(3))
	stack.Await(t, stack.Up, "the metrics of the lanes of before to go", func() (bool, any) {
		seen := labelled("lane")
		return maps.Equal(seen, map[string]bool{"2": true, "3": true, "4": true}), seen
	})
	if log := standalone.Log(); !strings.Contains(log, "lost the leases") { // as they are where the machine stands still for longer than a lease
		require.NotContains(t, log, "level=WARN")
		require.NotContains(t, log, "level=ERROR")
	}
}

func scrape(t *testing.T, addr string) string {
	t.Helper()
	resp, err := http.Get("http://" + addr + "/metrics")
	require.NoError(t, err)
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	return string(body)
}

var (
	sample = regexp.MustCompile(`^([a-z_][a-z0-9_]*)(?:\{(.*)\})? `)
	label  = regexp.MustCompile(`([a-z_]+)="`)
)

// labels are the names of the labels that each metric has.
func labels(body string) map[string]map[string]bool {
	out := map[string]map[string]bool{}
	for line := range strings.Lines(body) {
		m := sample.FindStringSubmatch(line)
		if m == nil {
			continue
		}
		if out[m[1]] == nil {
			out[m[1]] = map[string]bool{}
		}
		for _, l := range label.FindAllStringSubmatch(m[2], -1) {
			out[m[1]][l[1]] = true
		}
	}
	return out
}
