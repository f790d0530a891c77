package service

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"
)

// healthcheckTimeout bounds the question: whoever asks is asked for an answer within seconds himself.
const healthcheckTimeout = 3 * time.Second

// healthcheckCommand asks the process that runs with the same settings for its health: what a
// container's health check calls, since its image holds no shell and no other program.
func healthcheckCommand(def Definition) *cobra.Command {
	cfg := DefaultConfig(def.Name)
	live := false
	cmd := &cobra.Command{
		Use:   "healthcheck",
		Short: "Ask the " + def.Name + " service on this machine whether it is ready",
		Long: `Ask the ` + def.Name + ` service that runs here with the same settings whether it is ready, and say what it
lacks when it is not. The address is that of --http; the settings are found as the service finds them.

Exit codes: 0 ready; 1 not ready, or not there; 2 wrong flags or configuration.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := Load(cmd.Flags(), os.LookupEnv); err != nil {
				return usageError{err}
			}
			path := "/readyz"
			if live {
				path = "/healthz"
			}
			url, err := localURL(cfg.HTTP, path)
			if err != nil {
				return usageError{err}
			}
			ctx, cancel := context.WithTimeout(cmd.Context(), healthcheckTimeout)
			defer cancel()
			return askHealth(ctx, url)
		},
	}
	// All settings of the service, so that its file has no unknown keys here.
	cfg.AddFlags(cmd.Flags())
	if def.Flags != nil {
		def.Flags(cmd.Flags())
	}
	cmd.Flags().String("config", "", "YAML file of the service's settings")
	cmd.Flags().BoolVar(&live, "live", false, "ask only whether the process answers")
	return cmd
}

// localURL is where this machine reaches a server that listens on addr.
func localURL(addr, path string) (string, error) {
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return "", fmt.Errorf("http: %q: give host:port, such as 127.0.0.1:7080", addr)
	}
	if port == "0" {
		return "", fmt.Errorf("http: %q: a port that was chosen freely cannot be asked; give one", addr)
	}
	if ip := net.ParseIP(host); host == "" || ip != nil && ip.IsUnspecified() {
		host = "127.0.0.1"
	}
	return "http://" + net.JoinHostPort(host, port) + path, nil
}

// askHealth returns nil for 200, else what the service said it lacks.
func askHealth(ctx context.Context, url string) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return fmt.Errorf("ask %s: %w", url, err)
	}
	// Never through a proxy: the service is on this machine.
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	resp, err := client.Do(req)
	if err != nil {
		return fmt.Errorf("ask for health: %w", err)
	}
	defer resp.Body.Close()
	said, err := io.ReadAll(io.LimitReader(resp.Body, 16<<10))
	if err != nil {
		return fmt.Errorf("read the answer of %s: %w", url, err)
	}
	if resp.StatusCode != http.StatusOK {
		return errors.New(strings.TrimSpace(string(said)))
	}
	return nil
}
