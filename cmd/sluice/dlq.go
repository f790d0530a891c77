package main

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/spf13/cobra"

	controlv1 "sluice/gen/sluice/control/v1"
)

func dlqCommand(c *client) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "dlq",
		Short: "Look at the events that could not be delivered",
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) > 0 {
				return usagef("unknown command %q for %q; there is: ls", args[0], cmd.CommandPath())
			}
			return cmd.Help()
		},
	}
	cmd.AddCommand(dlqListCommand(c))
	return cmd
}

func dlqListCommand(c *client) *cobra.Command {
	var limit uint64
	cmd := &cobra.Command{
		Use:     "ls ID",
		Aliases: []string{"list"},
		Short:   "List the dead letters of a pipeline, oldest first",
		Long: `List the dead letters of a pipeline, oldest first. -o json prints one object a line. value and key
are the original bytes: as text when they are UTF-8, else in base64 and value_encoding says so.`,
		Args:              oneID,
		ValidArgsFunction: c.complete,
	}
	out := formatFlag(cmd)
	cmd.Flags().Uint64Var(&limit, "limit", 0, "at most so many; 0 = all")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		api, closeConn, err := c.open()
		if err != nil {
			return err
		}
		defer closeConn()
		return c.explain(listDeadLetters(cmd.Context(), api, args[0], limit, *out, cmd.OutOrStdout()))
	}
	return cmd
}

func listDeadLetters(ctx context.Context, api controlv1.PipelineServiceClient, id string, limit uint64, out format, w io.Writer) error {
	stream, err := api.ListDeadLetters(ctx, &controlv1.ListDeadLettersRequest{Id: id, Limit: limit})
	if err != nil {
		return err
	}
	rows := [][]string{{"STAGE", "TOPIC", "PARTITION", "OFFSET", "FIELD", "REASON", "VALUE"}}
	for {
		l, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return err
		}
		switch out {
		case "table":
			rows = append(rows, []string{
				l.GetStage(), l.GetTopic(), fmt.Sprint(l.GetPartition()), fmt.Sprint(l.GetOffset()),
				dash(l.GetField()), l.GetReason(), shorten(l.GetValue(), 60),
			})
		default:
			b, err := json.Marshal(newDeadLetter(l))
			if err != nil {
				return err
			}
			if out == "json" {
				_, err = w.Write(append(b, '\n'))
			} else if _, err = fmt.Fprintln(w, "---"); err == nil {
				err = writeJSON(w, out, b)
			}
			if err != nil {
				return err
			}
		}
	}
	if out != "table" {
		return nil
	}
	return table(w, rows)
}

// deadLetter is a dead letter as scripts see it.
type deadLetter struct {
	Stage          string `json:"stage"`
	Topic          string `json:"topic"`
	Partition      int32  `json:"partition"`
	Offset         int64  `json:"offset"`
	Timestamp      string `json:"timestamp,omitempty"`
	Refused        string `json:"refused,omitempty"`
	Field          string `json:"field"`
	Reason         string `json:"reason"`
	Key            string `json:"key"`
	KeyEncoding    string `json:"key_encoding,omitempty"`
	Value          string `json:"value"`
	ValueEncoding  string `json:"value_encoding,omitempty"`
	ValueTruncated bool   `json:"value_truncated"`
	Sequence       uint64 `json:"sequence"`
}

func newDeadLetter(l *controlv1.ListDeadLettersResponse) deadLetter {
	d := deadLetter{
		Stage: l.GetStage(), Topic: l.GetTopic(), Partition: l.GetPartition(), Offset: l.GetOffset(),
		Field: l.GetField(), Reason: l.GetReason(), ValueTruncated: l.GetValueTruncated(), Sequence: l.GetSequence(),
	}
	if t := l.GetTimestamp(); t != nil {
		d.Timestamp = t.AsTime().Format(time.RFC3339Nano)
	}
	if t := l.GetRefused(); t != nil {
		d.Refused = t.AsTime().Format(time.RFC3339Nano)
	}
	d.Key, d.KeyEncoding = text(l.GetKey())
	d.Value, d.ValueEncoding = text(l.GetValue())
	return d
}

// text is the bytes as they are when they are UTF-8, else in base64, and what was done.
func text(b []byte) (s, encoding string) {
	if utf8.Valid(b) {
		return string(b), ""
	}
	return base64.StdEncoding.EncodeToString(b), "base64"
}

// shorten fits a value into a table: one line, no control characters.
func shorten(b []byte, n int) string {
	s := strings.Map(func(r rune) rune {
		if r < ' ' || r == utf8.RuneError {
			return '.'
		}
		return r
	}, string(b[:min(len(b), 4*n)]))
	if r := []rune(s); len(r) > n {
		return string(r[:n-1]) + "…"
	}
	return s
}
