//go:build linux

package main

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// process is a program that is ended and started again.
type process struct {
	path, log string
	args      []string
	cmd       *exec.Cmd
}

func (p *process) start() error {
	log, err := os.OpenFile(p.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer log.Close()
	p.cmd = exec.Command(p.path, p.args...)
	p.cmd.Stdout, p.cmd.Stderr = log, log
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := p.cmd.Start(); err != nil {
		return fmt.Errorf("start %s: %w", p.path, err)
	}
	return nil
}

func (p *process) kill() error { return p.end(syscall.SIGKILL) }
func (p *process) stop() error { return p.end(syscall.SIGTERM) }

func (p *process) end(s syscall.Signal) error {
	if p.cmd == nil || p.cmd.ProcessState != nil {
		return nil
	}
	if err := p.cmd.Process.Signal(s); err != nil {
		return fmt.Errorf("end %s: %w", p.path, err)
	}
	_ = p.cmd.Wait() // how it ended we know
	return nil
}

// cpu is what the kernel has charged it so far.
func (p *process) cpu() time.Duration {
	fields := p.proc("stat")
	if len(fields) < 13 {
		return 0
	}
	// After the command, which is in parentheses, user and system time are fields 14 and 15, in ticks of 10 ms.
	user, _ := strconv.ParseInt(fields[11], 10, 64)
	system, _ := strconv.ParseInt(fields[12], 10, 64)
	return time.Duration(user+system) * 10 * time.Millisecond
}

// rss is its resident memory in bytes.
func (p *process) rss() int64 {
	fields := p.proc("statm")
	if len(fields) < 2 {
		return 0
	}
	pages, _ := strconv.ParseInt(fields[1], 10, 64)
	return pages * int64(os.Getpagesize())
}

func (p *process) proc(file string) []string {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/%s", p.cmd.Process.Pid, file))
	if err != nil {
		return nil
	}
	return strings.Fields(string(data[bytes.LastIndexByte(data, ')')+1:]))
}
