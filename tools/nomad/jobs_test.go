package nomad

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/hashicorp/nomad/api"
	"github.com/hashicorp/nomad/jobspec2"
	"github.com/stretchr/testify/require"
)

// parse reads a job as `nomad job run` does.
func parse(t *testing.T, name string, vars ...string) *api.Job {
	t.Helper()
	path := filepath.Join("..", "..", "deploy", "nomad", name)
	body, err := os.ReadFile(path)
	require.NoError(t, err)
	job, err := jobspec2.ParseWithConfig(&jobspec2.ParseConfig{
		Path: path, BaseDir: filepath.Dir(path), Body: body, ArgVars: vars, AllowFS: true, Strict: true,
	})
	require.NoError(t, err)
	job.Canonicalize()
	return job
}

// drain is the services' default drain timeout.
const drain = 15 * time.Second

func TestSluice(t *testing.T) {
	job := parse(t, "sluice.nomad.hcl")
	require.Equal(t, "service", *job.Type)
	require.True(t, *job.Update.AutoRevert)
	require.Equal(t, 1, *job.Update.MaxParallel)
	var names []string
	for _, g := range job.TaskGroups {
		names = append(names, *g.Name)
		require.Equal(t, 1, *g.Count)
		require.NotNil(t, g.Scaling)
		require.True(t, *g.Scaling.Enabled)
		require.EqualValues(t, 1, *g.Scaling.Min)
		require.Greater(t, *g.Scaling.Max, int64(1))
		require.Len(t, g.Networks, 1)
		require.Len(t, g.Networks[0].DynamicPorts, 2)

		paths := map[string]bool{}
		for _, s := range g.Services {
			require.Equal(t, "nomad", s.Provider)
			require.Contains(t, s.Name, "sluice-"+*g.Name)
			for _, c := range s.Checks {
				require.Equal(t, "http", c.Type)
				paths[c.Path] = true
				if c.CheckRestart != nil {
					require.Equal(t, "/healthz", c.Path, "a service that waits for NATS must not be started anew")
				}
			}
		}
		require.Equal(t, map[string]bool{"/readyz": true, "/healthz": true}, paths)

		require.Len(t, g.Tasks, 1)
		task := g.Tasks[0]
		require.Equal(t, "docker", task.Driver)
		require.Equal(t, "sluice/"+*g.Name+":local", task.Config["image"])
		require.Equal(t, true, task.Config["readonly_rootfs"])
		require.Equal(t, "0.0.0.0:${NOMAD_PORT_grpc}", task.Env["SLUICE_GRPC"])
		require.Equal(t, "0.0.0.0:${NOMAD_PORT_http}", task.Env["SLUICE_HTTP"])
		require.Equal(t, *g.Name+"-${NOMAD_SHORT_ALLOC_ID}", task.Env["SLUICE_NAME"])
		require.NotContains(t, task.Env, "OTEL_EXPORTER_OTLP_ENDPOINT")
		require.Greater(t, *task.KillTimeout, drain)
		require.Positive(t, *task.Resources.MemoryMB)
		require.Len(t, task.Templates, 1)
		require.Contains(t, *task.Templates[0].EmbeddedTmpl, `nomadService "nats"`)
		require.True(t, *task.Templates[0].Envvars)
	}
	require.ElementsMatch(t, []string{"control", "ingestor", "dedup", "join", "sink"}, names)
}

func TestVariables(t *testing.T) {
	job := parse(t, "sluice.nomad.hcl", `datacenters=["a","b"]`, "image=registry.example.com/s", "tag=v2", "nats=nats://n1:4222,nats://n2:4222",
		"otlp=http://jaeger:4317")
	require.Equal(t, []string{"a", "b"}, job.Datacenters)
	for _, g := range job.TaskGroups {
		task := g.Tasks[0]
		require.Equal(t, "registry.example.com/s/"+*g.Name+":v2", task.Config["image"])
		require.Equal(t, "SLUICE_NATS=nats://n1:4222,nats://n2:4222", *task.Templates[0].EmbeddedTmpl)
		require.Equal(t, "http://jaeger:4317", task.Env["OTEL_EXPORTER_OTLP_ENDPOINT"])
	}
}

func TestNATS(t *testing.T) {
	job := parse(t, "nats.nomad.hcl")
	require.Len(t, job.TaskGroups, 1)
	g := job.TaskGroups[0]
	require.Equal(t, "nats", g.Services[0].Name, "what sluice.nomad.hcl looks for")
	require.Equal(t, "nomad", g.Services[0].Provider)
	conf, err := os.ReadFile(filepath.Join("..", "..", "deploy", "nats", "single.conf"))
	require.NoError(t, err)
	require.Equal(t, string(conf), *g.Tasks[0].Templates[0].EmbeddedTmpl)
	require.Equal(t, "/var/lib/nats", *g.Tasks[0].VolumeMounts[0].Destination)
	require.Contains(t, string(conf), `store_dir: "/var/lib/nats"`)
}
