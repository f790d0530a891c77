package main

import (
	"encoding/json"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestCommands goes through every command against a playground, as a user's script would.
func TestCommands(t *testing.T) {
	a, p := dev(t)
	resp, err := http.Get("http://" + a.HTTP + "/readyz")
	require.NoError(t, err)
	require.NoError(t, resp.Body.Close())
	require.Equal(t, 200, resp.StatusCode)
	for _, want := range []string{"grpcurl", "clickhouse-client", "kcat", a.Kafka, a.GRPC} {
		require.Contains(t, p.out.String(), want)
	}
	do := func(want int, stdin string, args ...string) (stdout, stderr string) {
		t.Helper()
		code, stdout, stderr := sluice(t, stdin, append([]string{"--server", a.GRPC}, args...)...)
		require.Equal(t, want, code, "%q\n%s%s", args, stdout, stderr)
		return stdout, stderr
	}

	// Refused: an unknown key, with its line, and a table that is not there.
	_, stderr := do(exitUsage, "id: p\nsurce: {}\n", "apply", "-f", "-")
	require.Contains(t, stderr, "standard input:2")
	do(exitUsage, spec1(a, "p"), "apply", "-f", "-")
	do(exitNotFound, "", "get", "p")
	do(exitNotFound, "", "wait", "p")

	execSQL(t, a.ClickHouse, table1)
	send(t, a.Kafka, "t1", `{"id":"a","n":18446744073709551615}`, `{"id":"b","n":2}`, `{"id":"a","n":3}`, `not JSON`, "\xff{")
	file := filepath.Join(t.TempDir(), "p.yaml")
	require.NoError(t, os.WriteFile(file, []byte(spec1(a, "p")), 0o600))
	stdout, _ := do(exitOK, "", "apply", "--dry-run", "-f", file)
	require.Contains(t, stdout, "pipeline p can be created")
	do(exitNotFound, "", "get", "p")
	stdout, _ = do(exitOK, "", "apply", "-f", file)
	require.Contains(t, stdout, "pipeline p created: exactly once")
	stdout, _ = do(exitOK, "", "apply", "-f", file)
	require.Contains(t, stdout, "pipeline p updated")

	_, stderr = do(exitOK, "", "wait", "p", "--timeout", "2m")
	require.Contains(t, stderr, "lag 0")
	stdout, _ = do(exitOK, "", "status", "p", "-o", "json")
	var s map[string]any
	require.NoError(t, json.Unmarshal([]byte(stdout), &s))
	for field, want := range map[string]any{
		"id": "p", "state": "RUNNING", "lag": 0.0, "records_in": 5.0, "duplicates": 1.0, "dead_letters": 2.0, "rows_out": 2.0,
		"tombstones": 0.0, "errors": []any{},
	} {
		require.Equal(t, want, s[field], field)
	}
	require.EqualValues(t, 2, count(t, a.ClickHouse, "SELECT count() FROM t1"))
	stdout, _ = do(exitOK, "", "status", "p")
	require.Regexp(t, `rows out +2\n`, stdout)
	require.Contains(t, stdout, "STAGE")

	stdout, _ = do(exitOK, "", "dlq", "ls", "p", "-o", "json")
	lines := strings.Split(strings.TrimSpace(stdout), "\n")
	require.Len(t, lines, 2)
	letters := map[string]map[string]any{}
	for _, line := range lines {
		var l map[string]any
		require.NoError(t, json.Unmarshal([]byte(line), &l))
		require.Equal(t, "ingest", l["stage"])
		require.Equal(t, "t1", l["topic"])
		require.NotEmpty(t, l["reason"])
		require.NotEmpty(t, l["timestamp"])
		letters[l["value"].(string)] = l
	}
	require.Contains(t, letters, "not JSON")
	require.Equal(t, "base64", letters["/3s="]["value_encoding"])
	stdout, _ = do(exitOK, "", "dlq", "ls", "p", "--limit", "1", "-o", "json")
	require.Equal(t, 1, strings.Count(stdout, "\n"))

	stdout, _ = do(exitOK, "", "list")
	require.Regexp(t, `p +RUNNING +t1 +default.t1 +4 +exactly once`, stdout)
	stdout, _ = do(exitOK, "", "list", "-o", "yaml")
	require.Contains(t, stdout, "pipelines:\n  - spec:\n")
	stdout, _ = do(exitOK, "", "get", "p", "--spec")
	do(exitOK, stdout, "apply", "-f", "-") // what get says can be applied
	stdout, _ = do(exitOK, "", "get", "p", "--spec", "-o", "json")
	require.True(t, json.Valid([]byte(stdout)), stdout)
	do(exitOK, stdout, "apply", "-f", "-")
	stdout, _ = do(exitOK, "", "get", "p", "-o", "json")
	require.Contains(t, stdout, `"desired": "RUNNING"`)
	stdout, _ = do(exitOK, "", "__complete", "status", "")
	require.Contains(t, stdout, "p\n")

	// Paused, nothing is read: wait runs out of time, with its own code.
	do(exitOK, "", "pause", "p")
	send(t, a.Kafka, "t1", `{"id":"c","n":3}`)
	_, stderr = do(exitTimeout, "", "wait", "p", "--timeout", "4s")
	require.Contains(t, stderr, "lag is 1, state PAUSED")
	do(exitOK, "", "resume", "p")
	do(exitOK, "", "wait", "p", "--timeout", "2m")
	require.EqualValues(t, 3, count(t, a.ClickHouse, "SELECT count() FROM t1"))

	do(exitOK, "", "delete", "p")
	do(exitNotFound, "", "status", "p")
	do(exitNotFound, "", "delete", "p")
	p.stop(t)
	_, stderr = do(exitUnavailable, "", "list")
	require.Contains(t, stderr, "no control service at "+a.GRPC)
}

func TestStandaloneKeepsItsPipelines(t *testing.T) {
	a, _ := dev(t)
	execSQL(t, a.ClickHouse, table1)
	send(t, a.Kafka, "t1", `{"id":"a","n":1}`)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	server := l.Addr().String()
	require.NoError(t, l.Close())
	dir := t.TempDir()
	start := func() *process {
		return background(t, "standalone", "--dir", dir, "--grpc", server, "--http", "127.0.0.1:0", "--log-level", "error")
	}
	up := func(p *process) {
		t.Helper()
		require.Eventually(t, func() bool { return strings.Contains(p.out.String(), "is ready") }, waitFor, poll, "%s", &p.err)
	}
	p := start()
	up(p)
	code, _, stderr := sluice(t, spec1(a, "q"), "--server", server, "apply", "-f", "-")
	require.Zero(t, code, stderr)
	code, _, stderr = sluice(t, "", "--server", server, "wait", "q")
	require.Zero(t, code, stderr)
	code, _, stderr = sluice(t, "", "standalone", "--dir", dir, "--grpc", "127.0.0.1:0", "--http", "127.0.0.1:0")
	require.Equal(t, exitFailure, code)
	require.Contains(t, stderr, "another process uses the data directory")
	p.stop(t)
	send(t, a.Kafka, "t1", `{"id":"a","n":1}`, `{"id":"b","n":1}`)
	p = start()
	up(p)
	code, _, stderr = sluice(t, "", "--server", server, "wait", "q")
	require.Zero(t, code, stderr)
	require.EqualValues(t, 2, count(t, a.ClickHouse, "SELECT count() FROM t1"), "the window is remembered")
}

func TestUsageErrors(t *testing.T) {
	for _, args := range [][]string{
		{"nope"}, {"get"}, {"get", "a", "b"}, {"list", "x"}, {"list", "-o", "xml"}, {"apply"}, {"apply", "-f", "/does/not/exist"},
		{"dlq", "nope"}, {"standalone"}, {"standalone", "--dir", "x", "--name", "a.b"}, {"dev", "--kafka", "nonsense"},
		{"demo", "--events", "0"}, {"wait", "x", "--timeout", "-1s"}, {"status"}, {"status", "a", "b"},
		{"trace", "x"}, {"trace", "x", "--offset", "0:1", "--key", "1"}, {"trace", "x", "y", "--offset", "0:1"}, {"trace", "x", "--offset", ""}, {"trace", "--offset", "0:1"},
		{"completion", "nope"}, {"completion", "bash", "nope"}, {"help", "nope"}, {"help", "dlq", "nope"}, {"version", "x"},
		{"dev", "kafka", "x"}, {"dev", "nope"}, {"demo", "nope"}, {"dlq", "ls"}, {"dlq", "ls", "a", "b"}, {"verify"}, {"verify", "a", "b"},
		{"standalone", "--dir", "x", "--nats", "nats://h:70000"}, {"dev", "--nats", "nats://h:1:2"},
	} {
		code, _, stderr := sluice(t, "", args...)
		require.Equal(t, exitUsage, code, "%q: %s", args, stderr)
		require.NotEmpty(t, stderr)
	}
	for _, args := range [][]string{{"completion", "bash"}, {"completion"}, {"help", "dlq", "ls"}, {"dlq"}, {"help"}, {}} {
		code, stdout, stderr := sluice(t, "", args...)
		require.Zero(t, code, "%q: %s", args, stderr)
		require.NotEmpty(t, stdout, "%q", args)
	}
	code, stdout, _ := sluice(t, "", "help", "exit-codes")
	require.Zero(t, code)
	require.Contains(t, stdout, "130")
}
