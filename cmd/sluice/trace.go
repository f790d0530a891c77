package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	controlv1 "sluice/gen/sluice/control/v1"
)

func traceCommand(c *client) *cobra.Command {
	var offset, source string
	var keys []string
	var since, timeout time.Duration
	var limit uint32
	cmd := &cobra.Command{
		Use:   "trace ID (--offset PARTITION:OFFSET | --key JSON…)",
		Short: "Show the way of one event, and its trace",
		Long: `Show the way of one event, from Kafka to ClickHouse, and the id of its trace, by which the
tracing system finds it; or of all recent events of a key.

The event is read from Kafka again, and the logs and the receipts of blocks are searched for it. Logs are
purged within seconds, receipts are kept for up to a day; what is not known any more is said to be unknown.
Where much waits in the logs, to search them takes time: --timeout bounds it, and what has been read is told.

With a join the event is of one of its sources. Its way shows what it was matched with; the trace is its own, and a
pair that another event has completed is in the trace of that one, which is named too.

WRITTEN    in the table                        PENDING     on its way, or waits for a counterpart
DUPLICATE  dropped                             NOT_READ    before the pipeline's start
DEAD_LETTER refused, see sluice dlq ls         TOMBSTONE   a null value, skipped
UNMATCHED  of a join: met nobody, dropped      UNKNOWN     see the notes (exit code 7, or 5 if time was short)`,
		Example: `  sluice trace user-events --offset 3:12345
  sluice trace matched --source orders --offset 0:99 # of a source of a join; also --offset orders/0:99
  sluice trace user-events --key 42 --since 1h       # all events with that key
  sluice trace user-events --key '"a"' --key 7       # a key of two fields`,
		Args:              oneID,
		ValidArgsFunction: c.complete,
	}
	out := formatFlag(cmd)
	flags := cmd.Flags()
	flags.StringVar(&offset, "offset", "", "the event's Kafka partition and offset, as in 3:12345; with a join SOURCE/3:12345")
	flags.StringArrayVar(&keys, "key", nil, "the dedup key, or the join key where there is no dedup: the value of each of its fields, as JSON, in their order")
	flags.StringVar(&source, "source", "", "with a join: the source")
	flags.DurationVar(&timeout, "timeout", 0, "how long Kafka, logs and receipts may be read; default 30s")
	flags.DurationVar(&since, "since", 0, "with --key: how far back to look; default 10m")
	flags.Uint32Var(&limit, "limit", 0, "with --key: at most so many events; 0 = 100")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		switch byOffset, byKey := flags.Changed("offset"), flags.Changed("key"); {
		case byOffset && byKey:
			return usagef("--offset and --key are given: give one of them")
		case !byOffset && !byKey:
			return usagef("neither --offset nor --key is given: %s", cmd.UseLine())
		}
		req := &controlv1.TraceRequest{Id: args[0], Source: source}
		if timeout < 0 {
			return usagef("--timeout %s: it must be positive", timeout)
		}
		if timeout > 0 {
			req.Timeout = durationpb.New(timeout)
		}
		if flags.Changed("offset") {
			name, at, err := parseOffset(offset)
			if err != nil {
				return err
			}
			if name != "" && source != "" && name != source {
				return usagef("--offset %q is of source %s, but --source says %s", offset, name, source)
			}
			if name != "" {
				req.Source = name
			}
			req.Event = &controlv1.TraceRequest_Offset{Offset: at}
		} else {
			key := &controlv1.TraceKey{Values: keys, Limit: limit}
			if since > 0 {
				key.Since = timestamppb.New(time.Now().Add(-since))
			}
			req.Event = &controlv1.TraceRequest_Key{Key: key}
		}
		api, closeConn, err := c.open()
		if err != nil {
			return err
		}
		defer closeConn()
		resp, err := followTrace(cmd.Context(), api, req, cmd.ErrOrStderr())
		if err != nil {
			return c.explain(err)
		}
		if *out != "table" {
			err = write(cmd.OutOrStdout(), *out, resp)
		} else {
			err = printTrace(cmd.OutOrStdout(), resp)
		}
		if err != nil {
			return err
		}
		return traceVerdict(resp)
	}
	return cmd
}

// traceVerdict is the exit code: of an answer that leaves open what became of an event.
func traceVerdict(resp *controlv1.TraceResponse) error {
	unknown := 0
	for _, e := range resp.GetEvents() {
		if e.GetOutcome() == controlv1.TracedEvent_UNKNOWN {
			unknown++
		}
	}
	switch {
	case resp.GetIncomplete() && (unknown > 0 || len(resp.GetEvents()) == 0):
		return &coded{exitTimeout, errors.New("not everything could be read in the time allowed; allow more by --timeout")}
	case unknown > 0:
		return &coded{exitIncomplete, fmt.Errorf("what became of %d of %d events is not known any more", unknown, len(resp.GetEvents()))}
	}
	return nil
}

// followTrace asks, and tells how far the reading is.
func followTrace(ctx context.Context, api controlv1.PipelineServiceClient, req *controlv1.TraceRequest, progress io.Writer) (*controlv1.TraceResponse, error) {
	stream, err := api.FollowTrace(ctx, req)
	if err != nil {
		return nil, err
	}
	var result *controlv1.TraceResponse
	for {
		resp, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			if result == nil {
				return nil, errors.New("the control service ended without an answer")
			}
			return result, nil
		}
		if err != nil {
			return nil, err
		}
		if r := resp.GetResult(); r != nil {
			result = r
			continue
		}
		p := resp.GetProgress()
		fmt.Fprintf(progress, "%s: %s of %s read\n", p.GetStep(), thousands(p.GetMessages()), thousands(p.GetOfMessages()))
	}
}

// parseOffset reads [SOURCE/]PARTITION:OFFSET.
func parseOffset(text string) (source string, at *controlv1.TraceOffset, err error) {
	rest := text
	if name, after, found := strings.Cut(text, "/"); found {
		source, rest = name, after
	}
	left, right, _ := strings.Cut(rest, ":")
	partition, err := strconv.ParseUint(left, 10, 31)
	if err == nil {
		var offset uint64
		if offset, err = strconv.ParseUint(right, 10, 63); err == nil {
			return source, &controlv1.TraceOffset{Partition: int32(partition), Offset: int64(offset)}, nil
		}
	}
	return "", nil, usagef("--offset %q: write the partition and the offset, as in 3:12345, with a join also the source, as in orders/3:12345", text)
}

func printTrace(w io.Writer, resp *controlv1.TraceResponse) error {
	for i, e := range resp.GetEvents() {
		if i > 0 {
			if _, err := fmt.Fprintln(w); err != nil {
				return err
			}
		}
		name := e.GetTopic()
		if e.GetSource() != "" {
			name = e.GetSource() + " (" + name + ")"
		}
		if _, err := fmt.Fprintf(w, "%s  partition %d  offset %d  %s\ntrace %s\n", name, e.GetPartition(), e.GetOffset(), e.GetOutcome(), dash(e.GetTraceId())); err != nil {
			return err
		}
		rows := [][]string{{"STAGE", "LANE", "MESSAGES", "TIME", "WHAT"}}
		for _, s := range e.GetSteps() {
			lane, messages, at := "-", "-", "-"
			if s.GetLane() >= 0 {
				lane = strconv.Itoa(int(s.GetLane()))
			}
			if s.GetFirstSequence() > 0 {
				messages = strconv.FormatUint(s.GetFirstSequence(), 10)
				if s.GetLastSequence() != s.GetFirstSequence() {
					messages += "-" + strconv.FormatUint(s.GetLastSequence(), 10)
				}
			}
			if s.GetTime() != nil {
				at = s.GetTime().AsTime().Format("2006-01-02T15:04:05.000Z")
			}
			text := s.GetText()
			if id := s.GetTraceId(); id != "" {
				text += ", in trace " + id
			}
			rows = append(rows, []string{s.GetStage(), lane, messages, at, text})
		}
		if err := table(w, rows); err != nil {
			return err
		}
	}
	for _, limit := range resp.GetLimits() {
		if _, err := fmt.Fprintln(w, "note: "+limit); err != nil {
			return err
		}
	}
	return nil
}
