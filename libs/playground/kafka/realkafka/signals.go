//go:build unix

package realkafka

import (
	"context"
	"errors"
	"fmt"
	"os"
	"syscall"
)

// Kill ends the broker with SIGKILL, as a crash would, and waits until it is gone.
func (r *Real) Kill() error { return r.end(context.Background(), syscall.SIGKILL) }

// Stop shuts the broker down in good order and waits until it is gone; when ctx ends first, it is killed.
func (r *Real) Stop(ctx context.Context) error { return r.end(ctx, syscall.SIGTERM) }

// Restart stops the broker in good order and starts it again on the same ports and directory.
func (r *Real) Restart(ctx context.Context) error {
	if err := r.Stop(ctx); err != nil {
		return err
	}
	return r.Start(ctx)
}

// Pause freezes the broker with SIGSTOP: connections stay, nothing answers.
func (r *Real) Pause() error { return r.signal(syscall.SIGSTOP) }

// Resume lets a paused broker go on.
func (r *Real) Resume() error { return r.signal(syscall.SIGCONT) }

// Close kills the broker when it runs. The directory stays.
func (r *Real) Close() error { return r.Kill() }

func (r *Real) signal(s syscall.Signal) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.cmd == nil {
		return fmt.Errorf("send %v to Kafka: it does not run", s)
	}
	if err := r.cmd.Process.Signal(s); err != nil {
		return fmt.Errorf("send %v to Kafka: %w", s, err)
	}
	return nil
}

func (r *Real) end(ctx context.Context, s syscall.Signal) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.cmd == nil {
		return nil
	}
	err := r.cmd.Process.Signal(s)
	if errors.Is(err, os.ErrProcessDone) {
		err = nil
	}
	select {
	case <-r.exited:
	case <-ctx.Done():
		err = errors.Join(fmt.Errorf("stop Kafka: %w", context.Cause(ctx)), r.cmd.Process.Kill())
		<-r.exited
	}
	r.cmd, r.exited = nil, nil
	if err != nil {
		return fmt.Errorf("end Kafka: %w", err)
	}
	return nil
}
