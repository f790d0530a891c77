//go:build linux

package compose

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// file is what `docker compose config --format json` makes of compose.yaml, as far as rules look at it.
type file struct {
	Services map[string]struct {
		Image         string          `json:"image"`
		Build         json.RawMessage `json:"build"`
		User          string          `json:"user"`
		ReadOnly      bool            `json:"read_only"`
		Restart       string          `json:"restart"`
		ContainerName string          `json:"container_name"`
		CapDrop       []string        `json:"cap_drop"`
		CapAdd        []string        `json:"cap_add"`
		SecurityOpt   []string        `json:"security_opt"`
		Healthcheck   *struct {
			Test []string `json:"test"`
		} `json:"healthcheck"`
		DependsOn map[string]struct {
			Condition string `json:"condition"`
		} `json:"depends_on"`
		Deploy struct {
			Resources struct {
				Limits struct {
					CPUs   any    `json:"cpus"`
					Memory string `json:"memory"`
					Pids   int    `json:"pids"`
				} `json:"limits"`
			} `json:"resources"`
		} `json:"deploy"`
		Ports []struct {
			HostIP    string `json:"host_ip"`
			Published string `json:"published"`
		} `json:"ports"`
		Volumes []struct {
			Type, Source, Target string
			ReadOnly             bool `json:"read_only"`
		} `json:"volumes"`
	} `json:"services"`
	Volumes map[string]json.RawMessage `json:"volumes"`
}

// config is the file as Compose understands it, all profiles included.
func config(t testing.TB) file {
	t.Helper()
	cmd := exec.Command(composeBinary(t), "--profile", "*", "config", "--format", "json")
	cmd.Dir = root(t)
	out, err := cmd.Output()
	require.NoError(t, err, "%s", stderr(err))
	var f file
	require.NoError(t, json.Unmarshal(out, &f))
	return f
}

// stages may run in several instances; jobs end by themselves.
var (
	stages = []string{"ingestor", "dedup", "join", "sink"}
	jobs   = []string{"nats-volume", "demo-topic", "demo-table", "demo-pipeline"}
)

// Every rule that a service of the file must keep, for each of them.
func TestConfig(t *testing.T) {
	f := config(t)
	for _, name := range append([]string{"control", "kafka", "nats", "clickhouse", "jaeger", "prometheus", "grafana"}, stages...) {
		require.Contains(t, f.Services, name)
	}
	pinned := regexp.MustCompile(`^[a-z/-]+:v?\d+\.\d+\.\d+(\.\d+)?(-[a-z0-9.]+)?$`)
	for name, s := range f.Services {
		t.Run(name, func(t *testing.T) {
			if len(s.Build) == 0 || string(s.Build) == "null" {
				require.Regexp(t, pinned, s.Image, "a full version")
			} else {
				require.Regexp(t, `^sluice/[a-z]+:local$`, s.Image)
			}
			require.True(t, s.ReadOnly, "read-only root")
			require.Equal(t, []string{"ALL"}, s.CapDrop)
			require.Contains(t, s.SecurityOpt, "no-new-privileges:true")
			require.NotZero(t, s.Deploy.Resources.Limits.CPUs)
			require.NotEmpty(t, s.Deploy.Resources.Limits.Memory)
			require.NotZero(t, s.Deploy.Resources.Limits.Pids)
			require.Empty(t, s.ContainerName, "a fixed name cannot be scaled")
			if slices.Contains(jobs, name) {
				require.Equal(t, "no", s.Restart)
			} else if name != "demo-load" {
				require.NotNil(t, s.Healthcheck)
				require.NotEmpty(t, s.Healthcheck.Test)
				require.Equal(t, "unless-stopped", s.Restart)
			}
			if name == "nats-volume" {
				require.Equal(t, []string{"CHOWN"}, s.CapAdd)
			} else {
				require.Empty(t, s.CapAdd)
				require.False(t, strings.HasPrefix(s.User, "0") || s.User == "root", "not root")
			}
			for _, p := range s.Ports {
				require.Equal(t, "127.0.0.1", p.HostIP, "published on loopback only")
				if slices.Contains(stages, name) {
					require.Empty(t, p.Published, "a fixed port cannot be scaled")
				}
			}
			for on, d := range s.DependsOn {
				require.Contains(t, f.Services, on)
				want := "service_healthy"
				if slices.Contains(jobs, on) {
					want = "service_completed_successfully"
				}
				require.Equal(t, want, d.Condition, on)
			}
			for _, v := range s.Volumes {
				switch v.Type {
				case "volume":
					if name == "join" && v.Target == "/var/lib/sluice" {
						require.Empty(t, v.Source, "a cache, of each instance its own")
						continue
					}
					require.Contains(t, f.Volumes, v.Source, "a named volume")
				case "bind":
					require.True(t, v.ReadOnly, "%s: files of the repository are read only", v.Target)
					require.FileExists(t, existing(v.Source), "Docker would make a directory of what is not there")
				default:
					t.Fatalf("a volume of type %s", v.Type)
				}
			}
		})
	}
}

// existing turns a directory that exists into one of its files.
func existing(path string) string {
	entries, err := os.ReadDir(path)
	if err != nil || len(entries) == 0 {
		return path
	}
	for _, e := range entries {
		if found := existing(filepath.Join(path, e.Name())); !e.IsDir() || found != path {
			return found
		}
	}
	return path
}

// The images that have a user of their own which is not root. Of the others the file must name one.
func TestUsers(t *testing.T) {
	own := map[string]bool{"apache/kafka": true, "jaegertracing/jaeger": true, "prom/prometheus": true, "grafana/grafana": true}
	for name, s := range config(t).Services {
		repository, _, _ := strings.Cut(s.Image, ":")
		if !own[repository] && !strings.HasPrefix(repository, "sluice/") {
			require.NotEmpty(t, s.User, name)
		}
	}
	b, err := os.ReadFile(filepath.Join(root(t), "deploy", "Dockerfile"))
	require.NoError(t, err)
	_, after, found := strings.Cut(string(b), "FROM scratch AS cli")
	require.True(t, found)
	require.Equal(t, 2, strings.Count(after, "USER 65532:65532"), "both images")
}

// Prometheus takes its configuration, and Grafana's files name what the file mounts.
func TestObserve(t *testing.T) {
	deploy := filepath.Join(root(t), "deploy")
	promtool, err := exec.LookPath("promtool")
	if err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatal("promtool is not there; run make parts")
		}
		t.Skip("promtool is not there; run make parts")
	}
	out, err := exec.Command(promtool, "check", "config", filepath.Join(deploy, "prometheus", "prometheus.yml")).CombinedOutput()
	require.NoError(t, err, "%s", out)

	provider, err := os.ReadFile(filepath.Join(deploy, "grafana", "provisioning", "dashboards", "sluice.yaml"))
	require.NoError(t, err)
	mounted := false
	for _, v := range config(t).Services["grafana"].Volumes {
		mounted = mounted || strings.Contains(string(provider), "path: "+v.Target+"}")
	}
	require.True(t, mounted, "the directory of the dashboards")
	sources, err := os.ReadFile(filepath.Join(deploy, "grafana", "provisioning", "datasources", "sluice.yaml"))
	require.NoError(t, err)
	dashboards, err := filepath.Glob(filepath.Join(deploy, "grafana", "dashboards", "*.json"))
	require.NoError(t, err)
	require.NotEmpty(t, dashboards)
	for _, name := range dashboards {
		b, err := os.ReadFile(name)
		require.NoError(t, err)
		for _, m := range regexp.MustCompile(`"datasource": *\{[^}]*"uid": *"([a-z]+)"`).FindAllSubmatch(b, -1) {
			require.Contains(t, string(sources), "uid: "+string(m[1]), "%s", name)
		}
	}
}
