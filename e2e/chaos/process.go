//go:build unix

package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"sync"
	"syscall"
	"time"
)

// stopTimeout is longer than the services' own drain timeout.
const stopTimeout = 2 * time.Minute

// Process is a program that can be killed and started again with the same arguments.
type Process struct {
	Name    string
	LogFile string // of all its starts

	path string
	args []string
	// lost is told when the process ended and nobody had ended it.
	lost func(name, how string)

	mu     sync.Mutex
	cmd    *exec.Cmd     // guarded by mu; nil when nothing runs
	exited chan struct{} // guarded by mu; closed when cmd was waited for
	wanted bool          // guarded by mu: it should be running
	since  time.Time     // guarded by mu: it was started then
}

// unborn is how long after its start a program may not listen to signals yet. It has nothing to bring to an end by then, either.
const unborn = time.Second

// Start starts it.
func (p *Process) Start() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	log, err := os.OpenFile(p.LogFile, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("start %s: %w", p.Name, err)
	}
	defer log.Close() // the child has its own handle
	cmd := exec.Command(p.path, p.args...)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = attributes()
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start %s: %w", p.Name, err)
	}
	exited := make(chan struct{})
	p.cmd, p.exited, p.wanted, p.since = cmd, exited, true, time.Now()
	go func() { // ends with the process; awaited by end
		err := cmd.Wait()
		p.mu.Lock()
		alone := p.wanted && p.cmd == cmd
		p.mu.Unlock()
		close(exited)
		if alone {
			p.lost(p.Name, fmt.Sprint(err))
		}
	}()
	return nil
}

// PID is the process's number while it runs, else 0.
func (p *Process) PID() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.cmd == nil {
		return 0
	}
	return p.cmd.Process.Pid
}

// Kill ends it with SIGKILL and waits until it is gone.
func (p *Process) Kill() error { _, err := p.end(syscall.SIGKILL); return err }

// Stop ends it with SIGTERM and returns its exit code.
func (p *Process) Stop() (int, error) { return p.end(syscall.SIGTERM) }

// Pause freezes it, Resume lets it go on.
func (p *Process) Pause() error  { return p.signal(syscall.SIGSTOP) }
func (p *Process) Resume() error { return p.signal(syscall.SIGCONT) }

func (p *Process) signal(s syscall.Signal) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.cmd == nil {
		return fmt.Errorf("send %v to %s: it does not run", s, p.Name)
	}
	if err := p.cmd.Process.Signal(s); err != nil {
		return fmt.Errorf("send %v to %s: %w", s, p.Name, err)
	}
	return nil
}

func (p *Process) end(s syscall.Signal) (int, error) {
	p.mu.Lock()
	cmd, exited, young := p.cmd, p.exited, time.Since(p.since) < unborn
	p.wanted, p.cmd = false, nil
	p.mu.Unlock()
	if cmd == nil {
		return 0, nil
	}
	if err := cmd.Process.Signal(s); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return 0, fmt.Errorf("send %v to %s: %w", s, p.Name, err)
	}
	select {
	case <-exited:
	case <-time.After(stopTimeout):
		_ = cmd.Process.Kill() // it may have ended this moment
		<-exited
		return 0, fmt.Errorf("%s did not stop within %s of %v", p.Name, stopTimeout, s)
	}
	if how, ok := cmd.ProcessState.Sys().(syscall.WaitStatus); ok && young && how.Signaled() && how.Signal() == s {
		return 0, nil
	}
	return cmd.ProcessState.ExitCode(), nil
}

// Tail returns the last lines of the log.
func (p *Process) Tail(lines int) string { return tail(p.LogFile, lines) }

func tail(file string, lines int) string {
	b, err := os.ReadFile(file)
	if err != nil {
		return err.Error()
	}
	b = bytes.TrimRight(b, "\n")
	at := len(b)
	for range lines {
		if at = bytes.LastIndexByte(b[:at], '\n'); at < 0 {
			return string(b)
		}
	}
	return string(b[at+1:])
}
