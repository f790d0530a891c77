package main

import (
	"context"
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	controlv1 "sluice/gen/sluice/control/v1"
	"sluice/libs/spec"
)

func applyCommand(c *client) *cobra.Command {
	var files []string
	var dryRun bool
	cmd := &cobra.Command{
		Use:   "apply -f FILE [-f FILE ...]",
		Short: "Create or update pipelines from YAML or JSON files",
		Long: `Create or update pipelines from YAML or JSON files; - is standard input.

The files are all read before the first is applied. A pipeline is checked against its topic and its
table; everything that is wrong is said at once, and nothing is changed then.`,
		Args: noArgs,
	}
	out := formatFlag(cmd)
	cmd.Flags().StringArrayVarP(&files, "file", "f", nil, "file with a pipeline; may be given several times")
	cmd.Flags().BoolVar(&dryRun, "dry-run", false, "only check, change nothing")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if len(files) == 0 {
			return usagef("apply needs a file: sluice apply -f pipeline.yaml")
		}
		pipelines := make([]*controlv1.Pipeline, len(files))
		for i, name := range files {
			p, err := readSpec(name, cmd.InOrStdin())
			if err != nil {
				return err
			}
			pipelines[i] = p
		}
		for _, p := range pipelines {
			err := c.do(cmd, func(ctx context.Context, api controlv1.PipelineServiceClient) error {
				a, err := applyPipeline(ctx, api, p, dryRun)
				if err != nil {
					return err
				}
				for _, w := range a.warnings {
					fmt.Fprintf(cmd.ErrOrStderr(), "warning: %s\n", w)
				}
				if *out != "table" {
					return write(cmd.OutOrStdout(), *out, a.record)
				}
				return a.print(cmd.OutOrStdout())
			})
			if err != nil {
				return err
			}
		}
		return nil
	}
	return cmd
}

func readSpec(name string, stdin io.Reader) (*controlv1.Pipeline, error) {
	var data []byte
	var err error
	if name == "-" {
		name = "standard input"
		data, err = io.ReadAll(stdin)
	} else {
		data, err = os.ReadFile(name)
	}
	if err != nil {
		return nil, usagef("read the pipeline: %w", err)
	}
	p, err := spec.Parse(name, data)
	if err != nil {
		return nil, &coded{exitUsage, err}
	}
	return p, nil
}

// applied is what became of a pipeline.
type applied struct {
	verb     string
	record   *controlv1.PipelineRecord
	warnings []string
}

// applyPipeline creates the pipeline, or updates the one that has its id.
func applyPipeline(ctx context.Context, api controlv1.PipelineServiceClient, p *controlv1.Pipeline, dryRun bool) (*applied, error) {
	verbs := [2]string{"created", "updated"}
	if dryRun {
		verbs = [2]string{"can be created", "can be updated"}
	}
	_, err := api.Get(ctx, &controlv1.GetRequest{Id: p.GetId()})
	switch status.Code(err) {
	case codes.NotFound:
		r, err := api.Create(ctx, &controlv1.CreateRequest{Pipeline: p, ValidateOnly: dryRun})
		if status.Code(err) != codes.AlreadyExists { // someone may have been quicker
			return &applied{verbs[0], r.GetPipeline(), r.GetWarnings()}, err
		}
	case codes.OK:
	case codes.InvalidArgument:
		// No id, or none that can be: Create says that together with everything else.
		r, err := api.Create(ctx, &controlv1.CreateRequest{Pipeline: p, ValidateOnly: dryRun})
		return &applied{verbs[0], r.GetPipeline(), r.GetWarnings()}, err
	default:
		return nil, err
	}
	r, err := api.Update(ctx, &controlv1.UpdateRequest{Pipeline: p, ValidateOnly: dryRun})
	return &applied{verbs[1], r.GetPipeline(), r.GetWarnings()}, err
}

func (a *applied) print(w io.Writer) error {
	id, g := a.record.GetSpec().GetId(), a.record.GetGuarantee()
	_, err := fmt.Fprintf(w, "pipeline %s %s: %s\n", id, a.verb, guarantee(g))
	if err == nil && g.GetReason() != "" {
		_, err = fmt.Fprintf(w, "  %s\n", g.GetReason())
	}
	if err == nil && g.GetRemedy() != "" {
		_, err = fmt.Fprintf(w, "  for exactly once: %s\n", g.GetRemedy())
	}
	return err
}

func guarantee(g *controlv1.Guarantee) string {
	switch g.GetLevel() {
	case controlv1.Guarantee_EXACTLY_ONCE:
		return "exactly once"
	case controlv1.Guarantee_AT_LEAST_ONCE:
		return "at least once"
	default:
		return "guarantee not known"
	}
}
