package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"

	controlv1 "sluice/gen/sluice/control/v1"
)

func statusCommand(c *client) *cobra.Command {
	var watch bool
	var interval time.Duration
	cmd := &cobra.Command{
		Use:   "status ID",
		Short: "Show how a pipeline is doing",
		Long: `Show how a pipeline is doing. lag is the number of records in Kafka that are not yet settled:
written, dropped as duplicate or dead-lettered. Rows that wait in a join for a counterpart are not
among them: see "waiting" in the lines of its sources.

With --watch again whenever it changes; -o json then prints one object a line. The watch goes on when
the control service restarts.`,
		Args:              oneID,
		ValidArgsFunction: c.complete,
	}
	out := formatFlag(cmd)
	cmd.Flags().BoolVarP(&watch, "watch", "w", false, "show it again whenever it changes")
	cmd.Flags().DurationVar(&interval, "interval", time.Second, "with --watch: at most so often")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if watch {
			return watchStatus(cmd, c, args[0], *out, interval)
		}
		return c.do(cmd, func(ctx context.Context, api controlv1.PipelineServiceClient) error {
			resp, err := api.Status(ctx, &controlv1.StatusRequest{Id: args[0]})
			if err != nil {
				return err
			}
			if *out != "table" {
				return write(cmd.OutOrStdout(), *out, resp.GetStatus())
			}
			return printStatus(cmd.OutOrStdout(), resp.GetStatus())
		})
	}
	return cmd
}

// retryPause is how long a broken watch waits before it tries again.
const retryPause = 500 * time.Millisecond

func watchStatus(cmd *cobra.Command, c *client, id string, out format, interval time.Duration) error {
	api, closeConn, err := c.open()
	if err != nil {
		return err
	}
	defer closeConn()
	ctx, w := cmd.Context(), cmd.OutOrStdout()
	seen := false
	for {
		err := receive(ctx, api, id, interval, func(s *controlv1.PipelineStatus) error {
			screen := seen && out == "table" && isTerminal(w)
			seen = true
			switch {
			case out == "json":
				return writeLine(w, s)
			case out == "yaml":
				if _, err := fmt.Fprintln(w, "---"); err != nil {
					return err
				}
				return write(w, out, s)
			case screen:
				fmt.Fprint(w, "\x1b[H\x1b[2J") // home, clear: the newest status takes the place of the last
			}
			return printStatus(w, s)
		})
		if status.Code(err) != codes.Unavailable || !seen {
			return c.explain(err)
		}
		fmt.Fprintf(cmd.ErrOrStderr(), "sluice: %s; trying again\n", status.Convert(err).Message())
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(retryPause):
		}
	}
}

func receive(ctx context.Context, api controlv1.PipelineServiceClient, id string, interval time.Duration,
	show func(*controlv1.PipelineStatus) error,
) error {
	stream, err := api.Watch(ctx, &controlv1.WatchRequest{Id: id, Interval: durationpb.New(interval)})
	if err != nil {
		return err
	}
	for {
		resp, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return status.Error(codes.Unavailable, "the control service ended the watch")
		}
		if err != nil {
			return err
		}
		if err := show(resp.GetStatus()); err != nil {
			return err
		}
	}
}

func printStatus(w io.Writer, s *controlv1.PipelineStatus) error {
	rows := [][]string{
		{"pipeline", s.GetId()},
		{"state", s.GetState().String()},
		{"lag", thousands(s.GetLag())},
		{"records in", thousands(s.GetRecordsIn())},
		{"duplicates", thousands(s.GetDuplicates())},
		{"dead letters", thousands(s.GetDeadLetters())},
		{"tombstones", thousands(s.GetTombstones())},
		{"rows out", thousands(s.GetRowsOut())},
		{"state", fmt.Sprintf("%s keys, %s", thousands(s.GetStateKeys()), size(s.GetStateBytes()))},
	}
	rows = append(rows, joinRows(s)...)
	err := table(w, append(rows, []string{"guarantee", guarantee(s.GetGuarantee())}))
	for _, e := range s.GetErrors() {
		if err == nil {
			_, err = fmt.Fprintf(w, "error: %s\n", e)
		}
	}
	for _, warning := range s.GetWarnings() {
		if err == nil {
			_, err = fmt.Fprintf(w, "warning: %s\n", warning)
		}
	}
	if err != nil || len(s.GetLanes()) == 0 {
		return err
	}
	rows = [][]string{{"", "", "", "", "", "", ""}, {"STAGE", "UNIT", "OWNER", "POSITION", "LAG", "KEYS", "ERROR"}}
	for _, l := range s.GetLanes() {
		rows = append(rows, []string{
			l.GetStage(), l.GetUnit(), dash(l.GetOwner()), dash(l.GetPosition()), thousands(l.GetLag()),
			thousands(l.GetStateKeys()), dash(l.GetLastError()),
		})
	}
	return table(w, rows)
}

// joinRows are the lines of a join; none without one.
func joinRows(s *controlv1.PipelineStatus) [][]string {
	if !joins(s) {
		return nil
	}
	rows := [][]string{{"join", fmt.Sprintf("%s matched, %s unmatched, %s late, %s dropped",
		thousands(s.GetMatched()), thousands(s.GetUnmatched()), thousands(s.GetLate()), thousands(s.GetDropped()))}}
	names := map[string]bool{}
	for name := range s.GetBufferedRows() {
		names[name] = true
	}
	for name := range s.GetWatermarks() {
		names[name] = true
	}
	for _, name := range slices.Sorted(maps.Keys(names)) {
		watermark := "none yet"
		if mark := s.GetWatermarks()[name]; mark != nil {
			watermark = mark.AsTime().Format("2006-01-02T15:04:05.000Z07:00")
		}
		rows = append(rows, []string{"  " + name, fmt.Sprintf("%s waiting, watermark %s", thousands(s.GetBufferedRows()[name]), watermark)})
	}
	return rows
}

// joins tells that a pipeline has a join: it has such a stage, or had.
func joins(s *controlv1.PipelineStatus) bool {
	return len(s.GetBufferedRows()) > 0 || len(s.GetWatermarks()) > 0 || s.GetMatched()+s.GetUnmatched()+s.GetLate()+s.GetDropped() > 0 ||
		slices.ContainsFunc(s.GetLanes(), func(l *controlv1.LaneStatus) bool { return l.GetStage() == "join" })
}
