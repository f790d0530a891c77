package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"sluice/libs/service"
)

// stdio is where a command reads and writes; tests give their own.
type stdio struct {
	in       io.Reader
	out, err io.Writer
}

// run executes a command line and returns the exit code.
func run(ctx context.Context, args []string, io stdio) int {
	root := newRoot(io)
	root.SetArgs(args)
	err := root.ExecuteContext(ctx)
	if err != nil {
		printError(io.err, err)
	}
	return exitCode(ctx, err)
}

func newRoot(io stdio) *cobra.Command {
	c := &client{}
	root := &cobra.Command{
		Use:   "sluice",
		Short: "Kafka into ClickHouse, each event once",
		Long: `Sluice moves events from Kafka to ClickHouse, each of them once.

See what it does:      sluice demo
Try it by hand:        sluice dev
Run it on one machine: sluice standalone --dir DIR
Then:                  sluice apply -f pipeline.yaml; sluice status ID --watch

Exit codes: sluice help exit-codes`,
		SilenceErrors: true,
		SilenceUsage:  true,
		Version:       service.Version(),
	}
	root.SetVersionTemplate("sluice {{.Version}}\n")
	root.SetIn(io.in)
	root.SetOut(io.out)
	root.SetErr(io.err)
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return usagef("%w", err) })
	root.PersistentFlags().StringVar(&c.server, "server", defaultServer(), "host:port of the control service (SLUICE_SERVER)")

	root.AddGroup(&cobra.Group{ID: "pipelines", Title: "Pipelines:"}, &cobra.Group{ID: "run", Title: "Run Sluice here:"})
	for _, cmd := range []*cobra.Command{
		applyCommand(c), getCommand(c), listCommand(c), deleteCommand(c), pauseCommand(c), resumeCommand(c),
		statusCommand(c), waitCommand(c), verifyCommand(c), traceCommand(c), dlqCommand(c),
	} {
		cmd.GroupID = "pipelines"
		root.AddCommand(cmd)
	}
	for _, cmd := range []*cobra.Command{standaloneCommand(), devCommand(), demoCommand()} {
		cmd.GroupID = "run"
		root.AddCommand(cmd)
	}
	root.AddCommand(versionCommand(), exitCodesTopic())
	strict(root)
	return root
}

// strict makes usage errors of what cobra lets pass: words behind a command that only has commands, or topics of help that are not there.
func strict(root *cobra.Command) {
	root.InitDefaultCompletionCmd()
	root.InitDefaultHelpCmd()
	for _, cmd := range root.Commands() {
		switch {
		case cmd.Name() == "help":
			cmd.Args = func(_ *cobra.Command, args []string) error {
				if at, rest, err := root.Find(args); at == nil || err != nil || len(rest) > 0 {
					return usagef("there is no help on %q", strings.Join(args, " "))
				}
				return nil
			}
		case cmd.HasSubCommands() && !cmd.Runnable():
			cmd.RunE = func(cmd *cobra.Command, args []string) error {
				if len(args) > 0 {
					return usagef("%s has no command %q", cmd.CommandPath(), args[0])
				}
				return cmd.Help()
			}
		}
		for _, below := range cmd.Commands() {
			if cmd.Name() == "completion" {
				below.Args = noArgs
			}
		}
	}
}

func defaultServer() string {
	if s := os.Getenv("SLUICE_SERVER"); s != "" {
		return s
	}
	return "127.0.0.1:7070"
}

func versionCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "version",
		Short: "Print the version",
		Args:  noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			_, err := fmt.Fprintln(cmd.OutOrStdout(), "sluice", service.Version())
			return err
		},
	}
}

// noArgs and oneID are cobra's checks as usage errors.
func noArgs(cmd *cobra.Command, args []string) error {
	if len(args) > 0 {
		return usagef("%s takes no arguments, got %q", cmd.CommandPath(), args)
	}
	return nil
}

func oneID(cmd *cobra.Command, args []string) error {
	if len(args) != 1 || args[0] == "" {
		return usagef("%s needs the id of one pipeline: %s", cmd.CommandPath(), cmd.UseLine())
	}
	return nil
}
