package service

import (
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/nats-io/nats.go"
)

// connect returns at once, connected or not, and the connection comes back for ever.
func connect(cfg *Config, log *slog.Logger, extra []nats.Option) (*nats.Conn, error) {
	opts := []nats.Option{
		nats.Name("sluice " + cfg.Name),
		nats.RetryOnFailedConnect(true),
		nats.MaxReconnects(-1),
		// Quick, since a whole pipeline waits; the jitter keeps a fleet from coming in step.
		nats.ReconnectWait(250 * time.Millisecond),
		nats.ReconnectJitter(250*time.Millisecond, 500*time.Millisecond),
		// A publish while disconnected must fail: a buffered one might be sent after a lease or
		// fence is long gone, and its fate would be unknown.
		nats.ReconnectBufSize(-1),
		// A silent network is noticed in 6 s instead of minutes.
		nats.PingInterval(2 * time.Second),
		nats.MaxPingsOutstanding(2),
		nats.Timeout(2 * time.Second),
		// Wrong credentials are waited out like a server that is away: they may be mended there.
		nats.IgnoreAuthErrorAbort(),
		nats.ConnectHandler(func(nc *nats.Conn) {
			log.Info("connected to NATS", "url", nc.ConnectedUrlRedacted())
		}),
		nats.ReconnectHandler(func(nc *nats.Conn) {
			log.Info("reconnected to NATS", "url", nc.ConnectedUrlRedacted())
		}),
		nats.DisconnectErrHandler(func(_ *nats.Conn, err error) {
			if err != nil {
				log.Warn("lost the connection to NATS", "error", err)
			}
		}),
		nats.ErrorHandler(func(_ *nats.Conn, sub *nats.Subscription, err error) {
			if errors.Is(err, nats.ErrSlowConsumer) {
				// A lane that catches up has as many messages in hand as it asked for, and a heartbeat finds no room. All that we read
				// comes by ordered consumers, which ask again for a message that is missing.
				log.Debug("NATS", "error", err)
				return
			}
			if errors.Is(err, nats.ErrConsumerNotActive) {
				// No heartbeat came: the connection is away, of which there is a line, or the server was, and the client begins anew.
				log.Debug("NATS", "error", err)
				return
			}
			if sub != nil {
				log.Warn("NATS", "subject", sub.Subject, "error", err)
				return
			}
			log.Warn("NATS", "error", err)
		}),
	}
	if cfg.NATSCreds != "" {
		opts = append(opts, nats.UserCredentials(cfg.NATSCreds))
	}
	if cfg.NATSCA != "" {
		opts = append(opts, nats.RootCAs(cfg.NATSCA))
	}
	if cfg.NATSCert != "" {
		opts = append(opts, nats.ClientCert(cfg.NATSCert, cfg.NATSKey))
	}
	nc, err := nats.Connect(cfg.NATS, append(opts, extra...)...)
	if err != nil {
		return nil, fmt.Errorf("NATS connection to %s: %w", redactURL(cfg.NATS), err)
	}
	return nc, nil
}
