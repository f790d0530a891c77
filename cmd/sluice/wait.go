package main

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	controlv1 "sluice/gen/sluice/control/v1"
)

const (
	waitPoll = 200 * time.Millisecond
	// progressEvery is how often the progress is written where it cannot be written over.
	progressEvery = 2 * time.Second
)

func waitCommand(c *client) *cobra.Command {
	var timeout time.Duration
	cmd := &cobra.Command{
		Use:   "wait ID",
		Short: "Wait until a pipeline's lag is 0",
		Long: `Wait until a pipeline's lag is 0: everything that Kafka holds is settled, or waits in a join for a
counterpart. Returns 0 then, 5 when that is not so within the timeout. A control service that is away for a while is waited for as well.`,
		Args:              oneID,
		ValidArgsFunction: c.complete,
	}
	cmd.Flags().DurationVar(&timeout, "timeout", 60*time.Second, "longest time to wait; 0 = no limit")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if timeout < 0 {
			return usagef("--timeout must not be negative")
		}
		api, closeConn, err := c.open()
		if err != nil {
			return err
		}
		defer closeConn()
		p := &progress{w: cmd.ErrOrStderr(), terminal: isTerminal(cmd.ErrOrStderr())}
		defer p.end()
		return c.explain(waitLag(cmd.Context(), api, args[0], timeout, p.status))
	}
	return cmd
}

// waitLag polls until lag is 0. A service that does not answer is asked again.
func waitLag(ctx context.Context, api controlv1.PipelineServiceClient, id string, timeout time.Duration,
	show func(*controlv1.PipelineStatus, error),
) error {
	var expired <-chan time.Time
	call := ctx
	if timeout > 0 {
		t := time.NewTimer(timeout)
		defer t.Stop()
		expired = t.C
		var cancel context.CancelFunc
		call, cancel = context.WithTimeout(ctx, timeout)
		defer cancel()
	}
	last := "no answer from the control service"
	for {
		resp, err := api.Status(call, &controlv1.StatusRequest{Id: id})
		s := resp.GetStatus()
		switch code := status.Code(err); {
		case err == nil && s.GetLag() == 0 && settled(s):
			show(s, nil)
			return nil
		case err == nil:
			last = fmt.Sprintf("lag is %s, state %s", thousands(s.GetLag()), s.GetState())
			if len(s.GetErrors()) > 0 {
				last += ": " + s.GetErrors()[0]
			}
			show(s, nil)
		case code == codes.Unavailable || code == codes.DeadlineExceeded && call.Err() == nil: // the service's limit for one of its parts, not ours
			last = status.Convert(err).Message()
			show(nil, err)
		case call.Err() == nil || ctx.Err() != nil:
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-expired:
			return &coded{exitTimeout, fmt.Errorf("pipeline %s is not done after %s: %s", id, timeout, last)}
		case <-time.After(waitPoll):
		}
	}
}

// settled: a lag of 0 does not count when it is from before Kafka went away. The control service says
// so by an error about the lag; other errors are not in the way of what is settled already.
func settled(s *controlv1.PipelineStatus) bool {
	if s.GetState() == controlv1.PipelineStatus_DELETING {
		return false
	}
	return !slices.ContainsFunc(s.GetErrors(), func(e string) bool { return strings.HasPrefix(e, "the lag is") })
}

// progress shows a status as one line that is written over on a terminal, else now and then.
type progress struct {
	w        io.Writer
	terminal bool
	every    time.Duration // where lines cannot be written over; 0 is progressEvery
	last     time.Time
	shown    bool
	in       uint64    // of the last status
	at       time.Time // of the last status
	rate     float64   // records a second
}

func (p *progress) status(s *controlv1.PipelineStatus, err error) {
	now := time.Now()
	done := err == nil && s.GetLag() == 0 // the last line is always shown
	if !p.terminal && !done && now.Sub(p.last) < cmp.Or(p.every, progressEvery) {
		return
	}
	if err != nil {
		p.line(now, "waiting: "+status.Convert(err).Message())
		return
	}
	if in := s.GetRecordsIn(); in >= p.in && !p.at.IsZero() {
		if d := now.Sub(p.at).Seconds(); d > 0 {
			p.rate = float64(in-p.in) / d
		}
	}
	p.in, p.at = s.GetRecordsIn(), now
	text := fmt.Sprintf("%s: in %s  duplicates %s  written %s  lag %s  %s events/s", s.GetState(), thousands(s.GetRecordsIn()),
		thousands(s.GetDuplicates()), thousands(s.GetRowsOut()), thousands(s.GetLag()), thousands(uint64(p.rate)))
	if len(s.GetErrors()) > 0 {
		text += "  " + s.GetErrors()[0]
	}
	p.line(now, text)
}

func (p *progress) line(now time.Time, text string) {
	p.last = now
	if p.terminal {
		p.shown = true
		fmt.Fprintf(p.w, "\r\x1b[K%s", text)
		return
	}
	fmt.Fprintln(p.w, text)
}

// end leaves the last line standing.
func (p *progress) end() {
	if p.shown {
		fmt.Fprintln(p.w)
		p.shown = false
	}
}

func isTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	if !ok {
		return false
	}
	info, err := f.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0 && os.Getenv("TERM") != "dumb" && f.Name() != os.DevNull
}
