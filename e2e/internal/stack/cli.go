//go:build unix

package stack

import (
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// CLI runs the command line against one control service.
type CLI struct {
	t      testing.TB
	path   string
	server string
}

// NewCLI returns the command line of the binaries in bin.
func NewCLI(t testing.TB, bin, server string) *CLI {
	return &CLI{t: t, path: filepath.Join(bin, "sluice"), server: server}
}

// Result is what became of a command.
type Result struct {
	Stdout, Stderr string
	Code           int
}

// Run runs a command and returns whatever came of it.
func (c *CLI) Run(stdin string, args ...string) Result {
	c.t.Helper()
	cmd := exec.Command(c.path, args...)
	cmd.Env = append(os.Environ(), "SLUICE_SERVER="+c.server)
	cmd.Stdin = strings.NewReader(stdin)
	cmd.SysProcAttr = attributes()
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		require.NoError(c.t, err, "run sluice %v", args)
	}
	return Result{stdout.String(), stderr.String(), cmd.ProcessState.ExitCode()}
}

// Do runs a command that must succeed and returns its output.
func (c *CLI) Do(args ...string) string {
	c.t.Helper()
	r := c.Run("", args...)
	require.Zero(c.t, r.Code, "sluice %s: %s%s", strings.Join(args, " "), r.Stdout, r.Stderr)
	return r.Stdout
}

// Apply applies a specification that must be accepted and returns what was said.
func (c *CLI) Apply(spec string) string {
	c.t.Helper()
	r := c.Run(spec, "apply", "-f", "-")
	require.Zero(c.t, r.Code, "sluice apply: %s%s", r.Stdout, r.Stderr)
	return r.Stdout + r.Stderr
}

// Wait waits until everything that Kafka holds is settled.
func (c *CLI) Wait(id string, timeout time.Duration) {
	c.t.Helper()
	r := c.Run("", "wait", id, "--timeout", timeout.String())
	if r.Code != 0 {
		c.t.Fatalf("sluice wait %s: exit code %d: %s\n%s", id, r.Code, r.Stderr, c.Run("", "status", id).Stdout)
	}
}

// Status is the part of `status -o json` that users' scripts rely on, and what more the tests look at.
type Status struct {
	State       string   `json:"state"`
	Lag         uint64   `json:"lag"`
	RecordsIn   uint64   `json:"records_in"`
	Duplicates  uint64   `json:"duplicates"`
	DeadLetters uint64   `json:"dead_letters"`
	RowsOut     uint64   `json:"rows_out"`
	Tombstones  uint64   `json:"tombstones"`
	Errors      []string `json:"errors"`
	Lanes       []struct {
		Stage, Unit, Owner string
	} `json:"lanes"`
	Guarantee struct {
		Level, Engine, Reason, Remedy string
	} `json:"guarantee"`
}

// Owners returns the units that each instance of a stage owns.
func (s Status) Owners(stage string) map[string]int {
	owners := map[string]int{}
	for _, l := range s.Lanes {
		if l.Stage == stage {
			owners[l.Owner]++
		}
	}
	return owners
}

// Status asks for a pipeline's status.
func (c *CLI) Status(id string) Status {
	c.t.Helper()
	var s Status
	require.NoError(c.t, json.Unmarshal([]byte(c.Do("status", id, "-o", "json")), &s))
	return s
}

// Calm waits until a pipeline's status tells of no trouble: what a lane waited for is shown until it works again, a moment later.
func (c *CLI) Calm(id string) (s Status) {
	c.t.Helper()
	Await(c.t, Up, id+" tells of no trouble", func() (bool, any) {
		s = c.Status(id)
		return len(s.Errors) == 0, s
	})
	return s
}

// DeadLetter is a line of `dlq ls -o json`.
type DeadLetter struct {
	Stage          string `json:"stage"`
	Topic          string `json:"topic"`
	Partition      int32  `json:"partition"`
	Offset         int64  `json:"offset"`
	Field          string `json:"field"`
	Reason         string `json:"reason"`
	Key            []byte `json:"-"`
	Value          []byte `json:"-"`
	ValueTruncated bool   `json:"value_truncated"`
}

// DeadLetters lists the dead letters of a pipeline.
func (c *CLI) DeadLetters(id string) []DeadLetter {
	c.t.Helper()
	var letters []DeadLetter
	for line := range strings.Lines(c.Do("dlq", "ls", id, "-o", "json")) {
		var l DeadLetter
		var raw map[string]json.RawMessage
		require.NoError(c.t, json.Unmarshal([]byte(line), &raw), "%s", line)
		require.NoError(c.t, json.Unmarshal([]byte(line), &l), "%s", line)
		l.Key, l.Value = c.original(raw, "key"), c.original(raw, "value")
		letters = append(letters, l)
	}
	return letters
}

// original undoes the encoding of bytes that are not UTF-8.
func (c *CLI) original(object map[string]json.RawMessage, name string) []byte {
	c.t.Helper()
	if encoding, ok := object[name+"_encoding"]; ok {
		require.Equal(c.t, `"base64"`, string(encoding))
		var b []byte
		require.NoError(c.t, json.Unmarshal(object[name], &b))
		return b
	}
	var s string
	require.NoError(c.t, json.Unmarshal(object[name], &s))
	return []byte(s)
}
