//go:build unix

package stack

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// stopTimeout is longer than the services' own drain timeout.
const stopTimeout = 2 * time.Minute

// Process is a program that can be killed and started again with the same arguments. Its methods are called from the
// test's goroutine only.
type Process struct {
	Name string
	// LogFile takes what it writes to standard output and standard error, of all its starts.
	LogFile string

	t      testing.TB
	path   string
	args   []string
	env    []string
	dir    string
	cmd    *exec.Cmd
	exited chan struct{} // closed when cmd has been waited for
}

// NewProcess returns a process that is not started yet. It is ended with the test, and its log is printed when the
// test has failed.
func NewProcess(t testing.TB, name, path string, args, env []string) *Process {
	t.Helper()
	dir := t.TempDir()
	p := &Process{Name: name, LogFile: filepath.Join(dir, name+".log"), t: t, path: path, args: args, env: env, dir: dir}
	t.Cleanup(func() {
		if p.Running() {
			p.Kill()
		}
		if t.Failed() {
			t.Logf("log of %s:\n%s", name, p.LogTail(12<<10))
		}
	})
	return p
}

// Start starts it.
func (p *Process) Start() {
	p.t.Helper()
	require.False(p.t, p.Running(), "%s runs already", p.Name)
	log, err := os.OpenFile(p.LogFile, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	require.NoError(p.t, err)
	defer log.Close()
	cmd, exited := exec.Command(p.path, p.args...), make(chan struct{})
	cmd.Dir, cmd.Stdout, cmd.Stderr = p.dir, log, log
	cmd.Env = append(os.Environ(), p.env...)
	cmd.SysProcAttr = attributes()
	require.NoError(p.t, cmd.Start(), "start %s", p.Name)
	p.cmd, p.exited = cmd, exited
	go func() {
		defer close(exited)
		_ = cmd.Wait() // the code is in ProcessState
	}()
}

// Running tells whether it was started and has not exited.
func (p *Process) Running() bool {
	if p.cmd == nil {
		return false
	}
	select {
	case <-p.exited:
		return false
	default:
		return true
	}
}

// Kill ends it with SIGKILL and waits until it is gone.
func (p *Process) Kill() {
	p.t.Helper()
	require.True(p.t, p.Running(), "%s has ended by itself", p.Name)
	if err := p.cmd.Process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
		p.t.Errorf("kill %s: %v", p.Name, err)
	}
	<-p.exited
}

// Stop ends it with SIGTERM and returns its exit code.
func (p *Process) Stop() int {
	p.t.Helper()
	require.True(p.t, p.Running(), "%s has ended by itself", p.Name)
	require.NoError(p.t, p.cmd.Process.Signal(syscall.SIGTERM))
	select {
	case <-p.exited:
	case <-time.After(stopTimeout):
		p.t.Errorf("%s does not stop within %s", p.Name, stopTimeout)
		_ = p.cmd.Process.Kill()
		<-p.exited
	}
	return p.cmd.ProcessState.ExitCode()
}

// Log returns everything that it has written.
func (p *Process) Log() string {
	b, err := os.ReadFile(p.LogFile)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		p.t.Errorf("read the log of %s: %v", p.Name, err)
	}
	return string(b)
}

// LogTail returns the last n bytes of the log.
func (p *Process) LogTail(n int) string {
	log := p.Log()
	if len(log) > n {
		return "…" + log[len(log)-n:]
	}
	return log
}
