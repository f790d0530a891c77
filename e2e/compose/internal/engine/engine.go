//go:build linux

// Package engine runs a Docker engine of its own: its socket, its images, its state. Nothing of an engine
// that the machine has otherwise is touched, and the engine changes no firewall rules: containers reach each
// other and the host reaches published ports, but containers do not reach the world.
//
// It needs root and dockerd. Its images stay in the cache directory for the next run; containers,
// volumes and networks are the caller's to remove.
package engine

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// ErrUnavailable says why no engine can be had here.
var ErrUnavailable = errors.New("no Docker engine can be had on this machine")

// Engine is a running dockerd.
type Engine struct {
	// Host is its address, as DOCKER_HOST wants it.
	Host string

	docker string
	cmd    *exec.Cmd
	exited chan struct{} // closed when dockerd has ended
	log    string
	run    string // sockets and pids, removed by Stop
	bridge bool   // made by this engine, and removed by Stop where the machine has ip
}

// bridge is the interface that an engine gives to builds.
const bridge = "docker0"

// startTimeout is long: a busy machine unpacks containerd's state first.
const startTimeout = 3 * time.Minute

// Start runs an engine whose images are kept in cache. Only one engine may use a cache at a time.
func Start(ctx context.Context, cache string) (*Engine, error) {
	if os.Getuid() != 0 {
		return nil, fmt.Errorf("%w: it needs root", ErrUnavailable)
	}
	dockerd, err := exec.LookPath("dockerd")
	if err != nil {
		return nil, fmt.Errorf("%w: dockerd is not installed (apt-get install docker.io)", ErrUnavailable)
	}
	docker, err := exec.LookPath("docker")
	if err != nil {
		return nil, fmt.Errorf("%w: docker is not installed (apt-get install docker.io)", ErrUnavailable)
	}
	if err := os.MkdirAll(cache, 0o700); err != nil {
		return nil, fmt.Errorf("make the engine's directory: %w", err)
	}
	// A socket's path may have 107 characters: /run is short.
	run, err := os.MkdirTemp("/run", "sluice-docker-")
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	e := &Engine{
		Host: "unix://" + filepath.Join(run, "docker.sock"), docker: docker,
		log: filepath.Join(run, "log"), run: run, exited: make(chan struct{}),
	}
	log, err := os.Create(e.log)
	if err != nil {
		return nil, fmt.Errorf("make the engine's log: %w", err)
	}
	defer log.Close()
	e.cmd = exec.Command(dockerd, "--host", e.Host, "--data-root", filepath.Join(cache, "data"),
		"--exec-root", filepath.Join(run, "exec"), "--pidfile", filepath.Join(run, "pid"), "--iptables=false", "--ip-forward=false", "--ip-masq=false")
	if _, err := os.Stat("/sys/class/net/" + bridge); err == nil {
		e.cmd.Args = append(e.cmd.Args, "--bridge", bridge) // another engine's, or left behind by one
	} else {
		e.bridge = true
	}
	e.cmd.Stdout, e.cmd.Stderr = log, log
	e.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGTERM}
	if err := e.cmd.Start(); err != nil {
		return nil, fmt.Errorf("start dockerd: %w", err)
	}
	go func() {
		defer close(e.exited)
		_ = e.cmd.Wait() // how it ended is in ProcessState
	}()
	if err := e.wait(ctx); err != nil {
		err = fmt.Errorf("%w: %w\n%s", ErrUnavailable, err, e.tail())
		return nil, errors.Join(err, e.Stop())
	}
	return e, nil
}

// wait returns once the engine answers.
func (e *Engine) wait(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		cmd := exec.CommandContext(ctx, e.docker, "version")
		cmd.Env = append(os.Environ(), "DOCKER_HOST="+e.Host)
		if cmd.Run() == nil {
			return nil
		}
		select {
		case <-tick.C:
		case <-e.exited:
			return fmt.Errorf("dockerd ended: %s", e.cmd.ProcessState)
		case <-ctx.Done():
			return fmt.Errorf("dockerd does not answer: %w", ctx.Err())
		}
	}
}

// Stop ends the engine and every container with it.
func (e *Engine) Stop() error {
	if err := e.cmd.Process.Signal(syscall.SIGTERM); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("stop dockerd: %w", err)
	}
	select {
	case <-e.exited:
	case <-time.After(startTimeout):
		_ = syscall.Kill(-e.cmd.Process.Pid, syscall.SIGKILL)
		<-e.exited
		return errors.New("stop dockerd: it did not end and was killed")
	}
	if e.bridge {
		_ = exec.Command("ip", "link", "delete", bridge).Run()
	}
	if err := os.RemoveAll(e.run); err != nil {
		return fmt.Errorf("remove the engine's sockets: %w", err)
	}
	return nil
}

// Docker runs a command of the docker client and returns what it printed to standard output.
func (e *Engine) Docker(ctx context.Context, args ...string) (string, error) {
	cmd := e.Command(ctx, args...)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("docker %s: %w\n%s", strings.Join(args, " "), err, stderr.Bytes())
	}
	return stdout.String(), nil
}

// Command is a command of the docker client for this engine.
func (e *Engine) Command(ctx context.Context, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, e.docker, args...)
	cmd.Env = append(os.Environ(), "DOCKER_HOST="+e.Host)
	return cmd
}

// tail is the end of the engine's log.
func (e *Engine) tail() string {
	b, err := os.ReadFile(e.log)
	if err != nil {
		return err.Error()
	}
	return string(b[max(0, len(b)-4<<10):])
}
