package main

import (
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/types/known/timestamppb"

	controlv1 "sluice/gen/sluice/control/v1"
)

func traceCommand(c *client) *cobra.Command {
	var offset, source string
	var keys []string
	var since time.Duration
	var limit uint32
	cmd := &cobra.Command{
		Use:   "trace ID (--offset PARTITION:OFFSET | --key JSON…)",
		Short: "Show the way of one event, and its trace",
		Long: `Show the way of one event, from Kafka to ClickHouse, and the id of its trace, by which the
tracing system finds it; or of all recent events of a key.

The event is read from Kafka again, and the logs and the receipts of blocks are searched for it. Logs are
purged within seconds, receipts are kept for up to a day; what is not known any more is said to be unknown.

WRITTEN    in the table                        PENDING     on its way
DUPLICATE  dropped                             NOT_READ    before the pipeline's start
DEAD_LETTER refused, see sluice dlq ls         TOMBSTONE   a null value, skipped
UNKNOWN    see the notes`,
		Example: `  sluice trace user-events --offset 3:12345
  sluice trace matched --offset orders/0:99          # of a source of a join
  sluice trace user-events --key 42 --since 1h       # all events with that key
  sluice trace user-events --key '"a"' --key 7       # a key of two fields`,
		Args:              oneID,
		ValidArgsFunction: c.complete,
	}
	out := formatFlag(cmd)
	flags := cmd.Flags()
	flags.StringVar(&offset, "offset", "", "the event's Kafka partition and offset, as in 3:12345; with a join SOURCE/3:12345")
	flags.StringArrayVar(&keys, "key", nil, "the dedup key: the value of each of its fields, as JSON, in their order")
	flags.StringVar(&source, "source", "", "with a join and --key: the source")
	flags.DurationVar(&since, "since", 0, "with --key: how far back to look; default 10m")
	flags.Uint32Var(&limit, "limit", 0, "with --key: at most so many events; 0 = 100")
	cmd.MarkFlagsMutuallyExclusive("offset", "key")
	cmd.MarkFlagsOneRequired("offset", "key")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		req := &controlv1.TraceRequest{Id: args[0], Source: source}
		if offset != "" {
			name, at, err := parseOffset(offset)
			if err != nil {
				return err
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
		resp, err := api.Trace(cmd.Context(), req)
		if err != nil {
			return c.explain(err)
		}
		if *out != "table" {
			return write(cmd.OutOrStdout(), *out, resp)
		}
		return printTrace(cmd.OutOrStdout(), resp)
	}
	return cmd
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
			rows = append(rows, []string{s.GetStage(), lane, messages, at, s.GetText()})
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
