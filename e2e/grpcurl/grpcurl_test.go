//go:build unix

package grpcurl

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"testing"

	"github.com/stretchr/testify/require"

	"sluice/e2e/internal/stack"
	"sluice/libs/playground/kafka/kafkatest"
)

// tool is the directory of the pinned grpcurl.
func tool(t *testing.T) string {
	t.Helper()
	dir, err := filepath.Abs(filepath.Join("..", "..", ".tools"))
	require.NoError(t, err)
	if _, err := os.Stat(filepath.Join(dir, "grpcurl")); err != nil {
		out, err := exec.Command("make", "-C", filepath.Dir(dir), filepath.Join(dir, "grpcurl")).CombinedOutput()
		require.NoError(t, err, "%s", out)
	}
	return dir
}

// Every command of docs/grpcurl.md, in the page's order, as a user would type it.
func TestPage(t *testing.T) {
	page, err := os.ReadFile(filepath.Join("..", "..", "docs", "grpcurl.md"))
	require.NoError(t, err)
	setup, examples, err := parse(string(page))
	require.NoError(t, err)
	require.NotEmpty(t, setup)
	require.Greater(t, len(examples), 15)

	tools := tool(t)
	bin, err := stack.Binaries(filepath.Join("..", ".."), t.TempDir())
	require.NoError(t, err)
	kafka := kafkatest.StartFake(t)
	s := stack.Run(t, bin)
	if s.Service("join") == nil {
		s.Scale("join", "join")
	}
	stack.OpenSQL(t, s.ClickHouseAddr).Exec(`CREATE TABLE clicks (click_id String, page LowCardinality(String)) ENGINE = MergeTree
		ORDER BY click_id SETTINGS non_replicated_deduplication_window = 10000`)
	producer := stack.NewProducer(t, kafka, "clicks", 4)
	for i := range 1000 {
		click := fmt.Appendf(nil, `{"click_id":"%d","page":"/%d"}`, i, i%31)
		producer.Send(int32(i%4), nil, click)
		if i%10 == 0 {
			producer.Send(int32(i%4), nil, click)
		}
	}
	producer.Send(0, nil, []byte("not JSON"))
	producer.Flush()

	dir := t.TempDir()
	env := append(os.Environ(), "PATH="+tools+":"+os.Getenv("PATH"), "KAFKA="+kafka, "CLICKHOUSE="+s.ClickHouseAddr)
	for variable, service := range map[string]string{
		"CONTROL": "control", "INGESTOR": "ingestor", "DEDUP": "dedup", "JOIN": "join", "SINK": "sink",
	} {
		require.Regexp(t, `(?m)\b`+variable+"=", setup, "the page says where it is")
		env = append(env, variable+"="+s.Address(service))
	}
	for i, e := range examples {
		run := func() (bool, any) {
			cmd := exec.Command("bash", "-eu", "-o", "pipefail", "-c", e.commands)
			cmd.Dir, cmd.Env = dir, env
			var stdout, stderr bytes.Buffer
			cmd.Stdout, cmd.Stderr = &stdout, &stderr
			err := cmd.Run()
			if err == nil {
				err = e.compare(stdout.String())
			}
			return err == nil, fmt.Sprintf("%v\n%s%s", err, stdout.Bytes(), stderr.Bytes())
		}
		what := fmt.Sprintf("docs/grpcurl.md, example %d, line %d:\n%s", i+1, e.line, e.commands)
		if readOnly(e.commands) { // what it tells may take a moment to come true
			stack.Await(t, stack.Up, what, run)
		} else if ok, seen := run(); !ok {
			t.Fatalf("%s\n%v", what, seen)
		}
	}
	requireComplete(t, string(page), env)
}

var (
	asks    = regexp.MustCompile(`/(Get|List|Status|Watch|ListDeadLetters|Verify|Trace|FollowTrace|GetStatus|Check|Checkpoint)\b`)
	changes = regexp.MustCompile(`/(Drain|Undrain|Delete|Pause|Resume|Create|Update)\b`)
)

// readOnly: these commands change nothing and may be repeated.
func readOnly(commands string) bool {
	return asks.MatchString(commands) && !changes.MatchString(commands)
}

// requireComplete: nothing is left out of the page when something new comes. A call that nobody has written yet is none.
func requireComplete(t *testing.T, page string, env []string) {
	t.Helper()
	pkg, service, rpc := regexp.MustCompile(`(?m)^package (\S+);`), regexp.MustCompile(`(?m)^service (\w+)`), regexp.MustCompile(`(?m)^  rpc (\w+)\(`)
	for variable, file := range map[string]string{"CONTROL": "control/v1/pipeline.proto", "DEDUP": "stage/v1/stage.proto"} {
		proto, err := os.ReadFile(filepath.Join("..", "..", "proto", "sluice", file))
		require.NoError(t, err)
		full := pkg.FindStringSubmatch(string(proto))[1] + "." + service.FindStringSubmatch(string(proto))[1]
		for _, m := range rpc.FindAllStringSubmatch(string(proto), -1) {
			method := full + "/" + m[1]
			if regexp.MustCompile(regexp.QuoteMeta(method) + `\b`).MatchString(page) {
				continue
			}
			cmd := exec.Command("bash", "-c", "grpcurl -plaintext -max-time 10 -d '{}' $"+variable+" "+method)
			cmd.Env = env
			out, err := cmd.CombinedOutput()
			require.Error(t, err, "docs/grpcurl.md does not show %s", method)
			require.Contains(t, string(out), "Unimplemented", "docs/grpcurl.md does not show %s", method)
		}
	}
}
