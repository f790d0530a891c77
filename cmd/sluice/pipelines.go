package main

import (
	"context"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	controlv1 "sluice/gen/sluice/control/v1"
	"sluice/libs/spec"
)

func getCommand(c *client) *cobra.Command {
	var specOnly bool
	cmd := &cobra.Command{
		Use:   "get ID",
		Short: "Show a pipeline",
		Long: `Show a pipeline: what it is for people, or the whole record with -o json or -o yaml.
With --spec only the specification, for sluice apply: as YAML, or with -o json as JSON.`,
		Args:              oneID,
		ValidArgsFunction: c.complete,
	}
	out := formatFlag(cmd)
	cmd.Flags().BoolVar(&specOnly, "spec", false, "only the specification, for apply")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		return c.do(cmd, func(ctx context.Context, api controlv1.PipelineServiceClient) error {
			resp, err := api.Get(ctx, &controlv1.GetRequest{Id: args[0]})
			if err != nil {
				return err
			}
			w, r := cmd.OutOrStdout(), resp.GetPipeline()
			if *out != "table" && !specOnly {
				return write(w, *out, r)
			}
			text, err := spec.Marshal(r.GetSpec())
			if err != nil {
				return err
			}
			if specOnly && *out == "json" {
				return yamlAsJSON(w, text)
			}
			if specOnly {
				_, err = w.Write(text)
				return err
			}
			g := r.GetGuarantee()
			rows := [][]string{
				{"id", r.GetSpec().GetId()},
				{"desired", r.GetDesired().String()},
				{"generation", fmt.Sprint(r.GetGeneration())},
				{"guarantee", guarantee(g) + " (" + dash(g.GetEngine()) + ")"},
				{"reason", dash(g.GetReason())},
			}
			if g.GetRemedy() != "" {
				rows = append(rows, []string{"remedy", g.GetRemedy()})
			}
			rows = append(rows, []string{"created", age(r.GetCreateTime()) + " ago"}, []string{"updated", age(r.GetUpdateTime()) + " ago"})
			if err := table(w, rows); err != nil {
				return err
			}
			_, err = fmt.Fprintf(w, "\n%s", text)
			return err
		})
	}
	return cmd
}

func listCommand(c *client) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List the pipelines",
		Args:  noArgs,
	}
	out := formatFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		return c.do(cmd, func(ctx context.Context, api controlv1.PipelineServiceClient) error {
			resp, err := api.List(ctx, &controlv1.ListRequest{})
			if err != nil {
				return err
			}
			w := cmd.OutOrStdout()
			if *out != "table" {
				return write(w, *out, resp)
			}
			rows := [][]string{{"ID", "DESIRED", "TOPIC", "TABLE", "LANES", "GUARANTEE", "AGE"}}
			for _, r := range resp.GetPipelines() {
				p := r.GetSpec()
				ch := p.GetSink().GetClickhouse()
				rows = append(rows, []string{
					p.GetId(), r.GetDesired().String(), topics(p),
					strings.TrimPrefix(ch.GetDatabase()+"."+ch.GetTable(), "."), fmt.Sprint(p.GetLanes()),
					guarantee(r.GetGuarantee()), age(r.GetCreateTime()),
				})
			}
			if err := table(w, rows); err != nil {
				return err
			}
			for _, o := range resp.GetOrphans() {
				if _, err := fmt.Fprintf(cmd.ErrOrStderr(), "%s: has no record, but holds data (%s): put a later copy of the registry back, or remove it by `sluice delete %s`\n",
					o.GetId(), strings.Join(o.GetStreams(), ", "), o.GetId()); err != nil {
					return err
				}
			}
			return nil
		})
	}
	return cmd
}

// topics are those of a pipeline, left before right.
func topics(p *controlv1.Pipeline) string {
	var names []string
	for _, b := range spec.Branches(p) {
		names = append(names, b.Spec.GetKafka().GetTopic())
	}
	return strings.Join(names, "+")
}

func deleteCommand(c *client) *cobra.Command {
	return verbCommand(c, "delete", "Delete a pipeline with its streams and state; the table stays", "deleted",
		func(ctx context.Context, api controlv1.PipelineServiceClient, id string) error {
			_, err := api.Delete(ctx, &controlv1.DeleteRequest{Id: id})
			return err
		})
}

func pauseCommand(c *client) *cobra.Command {
	return verbCommand(c, "pause", "Stop reading from Kafka; state is kept", "paused",
		func(ctx context.Context, api controlv1.PipelineServiceClient, id string) error {
			_, err := api.Pause(ctx, &controlv1.PauseRequest{Id: id})
			return err
		})
}

func resumeCommand(c *client) *cobra.Command {
	return verbCommand(c, "resume", "Go on after pause", "resumed",
		func(ctx context.Context, api controlv1.PipelineServiceClient, id string) error {
			_, err := api.Resume(ctx, &controlv1.ResumeRequest{Id: id})
			return err
		})
}

func verbCommand(c *client, verb, short, done string,
	call func(context.Context, controlv1.PipelineServiceClient, string) error,
) *cobra.Command {
	return &cobra.Command{
		Use:               verb + " ID",
		Short:             short,
		Args:              oneID,
		ValidArgsFunction: c.complete,
		RunE: func(cmd *cobra.Command, args []string) error {
			return c.do(cmd, func(ctx context.Context, api controlv1.PipelineServiceClient) error {
				if err := call(ctx, api, args[0]); err != nil {
					return err
				}
				_, err := fmt.Fprintf(cmd.OutOrStdout(), "pipeline %s %s\n", args[0], done)
				return err
			})
		},
	}
}
