package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"time"

	"github.com/spf13/cobra"

	controlv1 "sluice/gen/sluice/control/v1"
)

func verifyCommand(c *client) *cobra.Command {
	var where string
	var locate uint32
	cmd := &cobra.Command{
		Use:   "verify ID",
		Short: "Audit a pipeline: is the table what was written?",
		Long: `Audit a pipeline: what came in against what was dropped, refused and written, and what was written
against the table, row by row. Nothing is changed, and the pipeline may run; a pipeline that writes
without a pause can only be counted (INCOMPLETE): pause it, or verify when less comes in.

The table is read once, all columns that are compared. Where it differs it is read once more, and Kafka
is searched for the records of the rows that are missing or too many, as long as they are few
(about 150); of more, their number is told.

EQUAL       every row that was written is in the table, and no other (exit code 0)
DIFFERENT   the findings say how; the rows with their offsets are listed (exit code 6)
INCOMPLETE  nothing differs as far as it could be compared; the limits say what could not (exit code 7)

Where the table had rows before the pipeline, or others write to it, say by --where which rows are the
pipeline's: a condition in ClickHouse's SQL.`,
		Example: `  sluice verify user-events
  sluice verify user-events --where "tenant = 'a'" -o json`,
		Args:              oneID,
		ValidArgsFunction: c.complete,
	}
	out := formatFlag(cmd)
	cmd.Flags().StringVar(&where, "where", "", "condition in ClickHouse's SQL on the rows to compare")
	cmd.Flags().Uint32Var(&locate, "locate", 0, "look up at most so many rows in Kafka; 0 = 1000")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		api, closeConn, err := c.open()
		if err != nil {
			return err
		}
		defer closeConn()
		result, err := verify(cmd.Context(), api, &controlv1.VerifyRequest{Id: args[0], Where: where, Locate: locate}, cmd.ErrOrStderr())
		if err != nil {
			return c.explain(err)
		}
		if *out != "table" {
			err = write(cmd.OutOrStdout(), *out, result)
		} else {
			err = printVerify(cmd.OutOrStdout(), result)
		}
		if err != nil {
			return err
		}
		switch result.GetVerdict() {
		case controlv1.VerifyResult_EQUAL:
			return nil
		case controlv1.VerifyResult_DIFFERENT:
			return &coded{exitDifferent, fmt.Errorf("pipeline %s: the audit found differences", args[0])}
		}
		return &coded{exitIncomplete, fmt.Errorf("pipeline %s: not everything could be compared", args[0])}
	}
	return cmd
}

// verify runs the audit and tells its steps.
func verify(ctx context.Context, api controlv1.PipelineServiceClient, req *controlv1.VerifyRequest, progress io.Writer) (*controlv1.VerifyResult, error) {
	stream, err := api.Verify(ctx, req)
	if err != nil {
		return nil, err
	}
	var result *controlv1.VerifyResult
	last := ""
	for {
		resp, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			if result == nil {
				return nil, errors.New("the control service ended the audit without a result")
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
		line := p.GetStep()
		if p.GetRows() > 0 {
			line += ": " + thousands(p.GetRows())
			if p.GetOfRows() > 0 {
				line += " of " + thousands(p.GetOfRows())
			}
		}
		if line != last {
			fmt.Fprintln(progress, line)
		}
		last = line
	}
}

func printVerify(w io.Writer, r *controlv1.VerifyResult) error {
	t := r.GetTable()
	rows := [][]string{
		{"verdict", r.GetVerdict().String()},
		{"table", t.GetName()},
		{"rows written", fmt.Sprintf("%s  checksum %016x", thousands(t.GetWrittenRows()), t.GetWrittenChecksum())},
		{"rows in table", fmt.Sprintf("%s  checksum %016x", thousands(t.GetRows()), t.GetChecksum())},
	}
	if took := t.GetTook().AsDuration(); took > 0 {
		rows = append(rows, []string{"read", fmt.Sprintf("%s in %s, %s rows/s", size(t.GetReadBytes()), took.Round(time.Millisecond),
			thousands(uint64(math.Round(float64(t.GetRows())/took.Seconds()))))})
	}
	if err := table(w, rows); err != nil {
		return err
	}
	for _, list := range []struct {
		name  string
		lines []string
	}{{"finding", r.GetFindings()}, {"limit", r.GetLimits()}} {
		for _, line := range list.lines {
			if _, err := fmt.Fprintf(w, "%s: %s\n", list.name, line); err != nil {
				return err
			}
		}
	}
	if err := printDifferences(w, r); err != nil {
		return err
	}
	rows = [][]string{{""}, {"SOURCE", "TOPIC", "PARTITION", "NEXT", "RECORDS", "TOMBSTONES", "DEAD LETTERS", "DROPPED", "REFUSED", "WRITTEN", "CHECKSUM"}}
	for _, p := range r.GetPartitions() {
		dropped := thousands(p.GetDropped())
		if p.GetSource() != "" {
			dropped = "-" // with a join it is counted by lane
		}
		rows = append(rows, []string{
			dash(p.GetSource()), p.GetTopic(), fmt.Sprint(p.GetPartition()), fmt.Sprint(p.GetNextOffset()), thousands(p.GetRecords()), thousands(p.GetTombstones()),
			thousands(p.GetDeadLetters()), dropped, thousands(p.GetRefused()), thousands(p.GetWritten()), fmt.Sprintf("%016x", p.GetChecksum()),
		})
	}
	if err := table(w, rows); err != nil {
		return err
	}
	rows = [][]string{{""}, {"STAGE", "LANE", "ROWS IN", "DUPLICATES", "DEAD LETTERS", "ROWS OUT"}}
	for _, l := range r.GetLanes() {
		rows = append(rows, []string{
			l.GetStage(), fmt.Sprint(l.GetLane()), thousands(l.GetRowsIn()), thousands(l.GetDuplicates()), thousands(l.GetDeadLetters()), thousands(l.GetRowsOut()),
		})
	}
	return table(w, rows)
}

func printDifferences(w io.Writer, r *controlv1.VerifyResult) error {
	if len(r.GetDifferences()) == 0 {
		if r.GetMoreDifferences() {
			_, err := fmt.Fprintln(w, "\nThe differing rows are too many to be told one by one.")
			return err
		}
		return nil
	}
	rows := [][]string{{""}, {"ROW", "TIMES", "TOPIC", "PARTITION", "OFFSET", "HASH", "VALUE"}}
	for _, d := range r.GetDifferences() {
		partition, offset := "-", "-"
		if d.GetPartition() >= 0 {
			partition, offset = fmt.Sprint(d.GetPartition()), fmt.Sprint(d.GetOffset())
		}
		rows = append(rows, []string{
			d.GetKind().String(), thousands(d.GetCount()), dash(d.GetTopic()), partition, offset, fmt.Sprintf("%016x", d.GetHash()), dash(shorten([]byte(d.GetRow()), 120)),
		})
	}
	if r.GetMoreDifferences() {
		rows = append(rows, []string{"and more"})
	}
	return table(w, rows)
}
