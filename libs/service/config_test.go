package service

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/spf13/pflag"
	"github.com/stretchr/testify/require"
)

func load(t *testing.T, args []string, env map[string]string, file string) (Config, error) {
	t.Helper()
	cfg := DefaultConfig("dedup")
	fs := pflag.NewFlagSet("dedup", pflag.ContinueOnError)
	cfg.AddFlags(fs)
	fs.String("config", "", "")
	if file != "" {
		path := filepath.Join(t.TempDir(), "s.yaml")
		require.NoError(t, os.WriteFile(path, []byte(file), 0o600))
		args = append(args, "--config", path)
	}
	require.NoError(t, fs.Parse(args))
	err := Load(fs, func(k string) (string, bool) { v, ok := env[k]; return v, ok })
	return cfg, err
}

func TestPrecedence(t *testing.T) {
	const file = "grpc: 127.0.0.1:3\ndrain_timeout: 3s\n"
	env := map[string]string{"SLUICE_GRPC": "127.0.0.1:2", "SLUICE_DRAIN_TIMEOUT": "2s"}
	for _, c := range []struct {
		name  string
		args  []string
		env   map[string]string
		file  string
		grpc  string
		drain time.Duration
	}{
		{"default", nil, nil, "", "127.0.0.1:7072", 15 * time.Second},
		{"file over default", nil, nil, file, "127.0.0.1:3", 3 * time.Second},
		{"environment over file", nil, env, file, "127.0.0.1:2", 2 * time.Second},
		{"flag over environment", []string{"--grpc", "127.0.0.1:1", "--drain-timeout=1s"}, env, file, "127.0.0.1:1", time.Second},
		{"flag equal to the default still wins", []string{"--grpc", "127.0.0.1:7072"}, env, file, "127.0.0.1:7072", 2 * time.Second},
		{"one from each", []string{"--grpc", "127.0.0.1:1"}, nil, file, "127.0.0.1:1", 3 * time.Second},
	} {
		t.Run(c.name, func(t *testing.T) {
			cfg, err := load(t, c.args, c.env, c.file)
			require.NoError(t, err)
			require.NoError(t, cfg.Validate())
			require.Equal(t, c.grpc, cfg.GRPC)
			require.Equal(t, c.drain, cfg.DrainTimeout)
		})
	}
}

// One of each service starts on one machine without a flag.
func TestServicesHavePortsOfTheirOwn(t *testing.T) {
	taken := map[string]string{}
	for _, name := range []string{"control", "ingestor", "dedup", "join", "sink"} {
		cfg := DefaultConfig(name)
		for _, addr := range []string{cfg.GRPC, cfg.HTTP} {
			require.Empty(t, taken[addr], "%s and %s both listen on %s", taken[addr], name, addr)
			taken[addr] = name
		}
	}
}

func TestFileFromEnvironmentAndLists(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s.yaml")
	require.NoError(t, os.WriteFile(path, []byte("nats: [nats://a:1, nats://b:2]\n"), 0o600))
	cfg, err := load(t, nil, map[string]string{"SLUICE_CONFIG": path}, "")
	require.NoError(t, err)
	require.NoError(t, cfg.Validate())
	require.Equal(t, "nats://a:1,nats://b:2", cfg.NATS)
}

func TestFileErrorsAllAtOnceWithLines(t *testing.T) {
	_, err := load(t, nil, map[string]string{"SLUICE_DRAIN_TIMEOUT": "soon"}, "natss: x\ngrpc: {a: b}\nhttp: a:1\nhttp: a:2\n")
	require.ErrorContains(t, err, `s.yaml:1: unknown key "natss"; known are `)
	require.ErrorContains(t, err, `s.yaml:2: grpc: must be a plain value`)
	require.ErrorContains(t, err, `s.yaml:4: key "http" was given in line 3 already`)
	require.ErrorContains(t, err, `SLUICE_DRAIN_TIMEOUT="soon"`)
}

func TestValidateReportsEverything(t *testing.T) {
	cfg := Config{NATS: "http://x", GRPC: "x", HTTP: "127.0.0.1:99999", Name: "a.b", LogLevel: "loud",
		LogFormat: "xml", NATSCert: "/does/not/exist"}
	err := cfg.Validate()
	for _, want := range []string{`nats: "http://x"`, `grpc: "x"`, `http: "127.0.0.1:99999"`, `name: "a.b"`, `log-level: "loud"`,
		`log-format: "xml"`, `drain-timeout: "0s"`, "nats-cert and nats-key go together", "cannot be read"} {
		require.ErrorContains(t, err, want)
	}
}

// What can never be reached is refused at once: everything else is waited for.
func TestURLsThatCannotBe(t *testing.T) {
	for url, ok := range map[string]bool{
		"nats://h:4222": true, "h": true, "h:4222": true, "nats://u:p@h:4222,tls://h2": true, "nats://[::1]:4222": true, "nats://[::1]": true, "ws://h:80/path": true,
		"nats://h:0": false, "nats://h:70000": false, "nats://h:4222:4223": false, "nats://:4222": false, ":4222": false, "nats://": false,
		"nats://h:port": false, "nats://h:4222;nats://h:4223": false, "nats://h h": false, "nats://h,": false, "nats:/h:4222": false,
	} {
		cfg := DefaultConfig("sink")
		cfg.NATS = url
		if ok {
			require.NoError(t, cfg.Validate(), url)
		} else {
			require.ErrorContains(t, cfg.Validate(), "nats: ", url)
		}
	}
}

func TestDefaultNamesAreUniqueAndValid(t *testing.T) {
	a, b := DefaultConfig("sink"), DefaultConfig("sink")
	require.NotEqual(t, a.Name, b.Name)
	require.NoError(t, a.Validate())
}

func TestURLsLoseTheirSecrets(t *testing.T) {
	require.Equal(t, "nats://xxx@h:1,xxx@h2:2,nats://h3", redactURL("nats://u:p@ss@h:1,tok@h2:2,nats://h3"))
}
