package main

import (
	"context"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	controlv1 "sluice/gen/sluice/control/v1"
)

// callTimeout bounds one call: Create and Update ask Kafka and ClickHouse, which may be slow to refuse.
const callTimeout = 60 * time.Second

// maxMessage is the largest answer taken: a dead letter may carry an event of several megabytes.
const maxMessage = 64 << 20

// client reaches the control service.
type client struct {
	server string // set by the flag
}

// open connects lazily; close ends it.
func (c *client) open() (api controlv1.PipelineServiceClient, close func(), err error) {
	conn, err := grpc.NewClient(c.server,
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxMessage)))
	if err != nil {
		return nil, nil, usagef("--server %q: %w", c.server, err)
	}
	return controlv1.NewPipelineServiceClient(conn), func() { _ = conn.Close() }, nil
}

// do runs f with a connection and a bounded context.
func (c *client) do(cmd *cobra.Command, f func(ctx context.Context, api controlv1.PipelineServiceClient) error) error {
	api, closeConn, err := c.open()
	if err != nil {
		return err
	}
	defer closeConn()
	ctx, cancel := context.WithTimeout(cmd.Context(), callTimeout)
	defer cancel()
	return c.explain(f(ctx, api))
}

// explain adds where the service was looked for when nobody was there. UNAVAILABLE may also be the
// service's own word, about NATS or Kafka; it stays as it is.
func (c *client) explain(err error) error {
	st, ok := status.FromError(err)
	if !ok || st.Code() != codes.Unavailable || !strings.HasPrefix(st.Message(), "connection error") {
		return err
	}
	return status.Errorf(codes.Unavailable, "no control service at %s (set --server or SLUICE_SERVER): %s", c.server, st.Message())
}

// complete offers the ids of the pipelines to the shell.
func (c *client) complete(cmd *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
	if len(args) > 0 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	api, closeConn, err := c.open()
	if err != nil {
		return nil, cobra.ShellCompDirectiveError
	}
	defer closeConn()
	ctx := cmd.Context()
	if ctx == nil {
		ctx = context.Background()
	}
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	resp, err := api.List(ctx, &controlv1.ListRequest{})
	if err != nil {
		return nil, cobra.ShellCompDirectiveError
	}
	var ids []string
	for _, p := range resp.GetPipelines() {
		ids = append(ids, p.GetSpec().GetId())
	}
	return ids, cobra.ShellCompDirectiveNoFileComp
}
