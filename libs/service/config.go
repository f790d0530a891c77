package service

import (
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/url"
	"os"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/pflag"

	"sluice/libs/telemetry"
)

// Config is the shell's settings. Each is a flag (--drain-timeout), an environment variable
// (SLUICE_DRAIN_TIMEOUT) and a key of the YAML file (drain_timeout); see Load.
type Config struct {
	// NATS is one URL or several of one cluster, separated by commas.
	NATS string
	// NATSCreds is a NATS credentials file; empty: none.
	NATSCreds string
	// NATSCA, NATSCert and NATSKey are PEM files for TLS to NATS; empty: as the URL says.
	NATSCA, NATSCert, NATSKey string
	// GRPC and HTTP are the host:port to listen on; port 0 takes a free one.
	GRPC, HTTP string
	// Name of this process, unique among the live ones: leases and status carry it.
	Name string
	// LogLevel is debug, info, warn or error. LogFormat is text or json.
	LogLevel, LogFormat string
	// DrainTimeout bounds the orderly stop. After it the process exits with an error; nothing is
	// lost then, others take over what it held once its leases run out.
	DrainTimeout time.Duration
	// KeepLogs is how long dedup, join and sink leave in the logs what nobody needs any more, unless a log fills up: an earlier copy of a
	// bucket with checkpoints and positions that is put back within that time needs it again.
	KeepLogs time.Duration
}

// Ports by service, so that one of each starts on one machine without a flag.
var defaultPorts = map[string]int{"control": 0, "ingestor": 1, "dedup": 2, "sink": 3, "join": 4}

// DefaultConfig is the configuration of a service that is told nothing.
func DefaultConfig(service string) Config {
	n := defaultPorts[service]
	return Config{
		NATS:         "nats://127.0.0.1:4222",
		GRPC:         net.JoinHostPort("127.0.0.1", strconv.Itoa(7070+n)),
		HTTP:         net.JoinHostPort("127.0.0.1", strconv.Itoa(7080+n)),
		Name:         defaultName(),
		LogLevel:     "info",
		LogFormat:    "text",
		DrainTimeout: 15 * time.Second,
		KeepLogs:     time.Hour,
	}
}

// defaultName is host-pid-random: containers often share the pid 1 and sometimes a host name.
func defaultName() string {
	host, err := os.Hostname()
	if err != nil || host == "" {
		host = "host"
	}
	var b [3]byte
	_, _ = rand.Read(b[:]) // never fails since Go 1.24
	clean := regexp.MustCompile(`[^A-Za-z0-9_-]+`).ReplaceAllString(host, "-")
	return fmt.Sprintf("%.40s-%d-%s", clean, os.Getpid(), hex.EncodeToString(b[:]))
}

// AddFlags binds the settings to flags; the values c has now are the defaults.
func (c *Config) AddFlags(fs *pflag.FlagSet) {
	fs.StringVar(&c.NATS, "nats", c.NATS, "URL of NATS; several separated by commas")
	fs.StringVar(&c.NATSCreds, "nats-creds", c.NATSCreds, "NATS credentials file")
	fs.StringVar(&c.NATSCA, "nats-ca", c.NATSCA, "PEM file of the authorities that NATS' certificate is checked with")
	fs.StringVar(&c.NATSCert, "nats-cert", c.NATSCert, "PEM file of the client certificate for NATS")
	fs.StringVar(&c.NATSKey, "nats-key", c.NATSKey, "PEM file of the client certificate's key")
	fs.StringVar(&c.GRPC, "grpc", c.GRPC, "host:port of the gRPC server")
	fs.StringVar(&c.HTTP, "http", c.HTTP, "host:port of /healthz, /readyz and /metrics")
	fs.StringVar(&c.Name, "name", c.Name, "name of this process, unique among the live ones")
	fs.Lookup("name").DefValue = "host-pid-random"
	fs.StringVar(&c.LogLevel, "log-level", c.LogLevel, "debug, info, warn or error")
	fs.StringVar(&c.LogFormat, "log-format", c.LogFormat, "text or json")
	fs.DurationVar(&c.DrainTimeout, "drain-timeout", c.DrainTimeout, "longest time that an orderly stop may take")
	fs.DurationVar(&c.KeepLogs, "keep-logs", c.KeepLogs, "how long logs keep what every stage has read, unless they fill up")
}

// A name becomes one token of a NATS subject and part of a KV key.
var validName = regexp.MustCompile(`^[A-Za-z0-9_-]{1,100}$`)

// Validate reports everything that is wrong, not only the first.
func (c *Config) Validate() error {
	var errs []error
	bad := func(field, value, remedy string) {
		errs = append(errs, fmt.Errorf("%s: %q: %s", field, value, remedy))
	}
	if c.NATS == "" {
		bad("nats", c.NATS, "give the URL of NATS, such as nats://127.0.0.1:4222")
	} else {
		for u := range strings.SplitSeq(c.NATS, ",") {
			if err := checkURL(strings.TrimSpace(u)); err != nil {
				bad("nats", redactURL(u), err.Error())
			}
		}
	}
	for _, l := range []struct{ field, addr string }{{"grpc", c.GRPC}, {"http", c.HTTP}} {
		if _, port, err := net.SplitHostPort(l.addr); err != nil {
			bad(l.field, l.addr, "give host:port, such as 127.0.0.1:7070")
		} else if _, err := strconv.ParseUint(port, 10, 16); err != nil {
			bad(l.field, l.addr, "the port must be a number from 0 to 65535")
		} else if l.field == "http" && l.addr == c.GRPC && port != "0" {
			bad(l.field, l.addr, "the gRPC server has this address already; give another")
		}
	}
	if !validName.MatchString(c.Name) {
		bad("name", c.Name, "use 1 to 100 letters, digits, hyphens and underscores")
	}
	if _, err := c.level(); err != nil {
		bad("log-level", c.LogLevel, "use debug, info, warn or error")
	}
	if c.LogFormat != "text" && c.LogFormat != "json" {
		bad("log-format", c.LogFormat, "use text or json")
	}
	if c.DrainTimeout <= 0 {
		bad("drain-timeout", c.DrainTimeout.String(), "must be more than 0, such as 15s")
	}
	if c.KeepLogs < 0 {
		bad("keep-logs", c.KeepLogs.String(), "must not be negative; 0s keeps nothing")
	}
	if (c.NATSCert == "") != (c.NATSKey == "") {
		bad("nats-cert", c.NATSCert, "nats-cert and nats-key go together; give both or neither")
	}
	for _, f := range []struct{ field, path string }{
		{"nats-creds", c.NATSCreds}, {"nats-ca", c.NATSCA}, {"nats-cert", c.NATSCert}, {"nats-key", c.NATSKey},
	} {
		if f.path == "" {
			continue
		}
		if file, err := os.Open(f.path); err != nil {
			bad(f.field, f.path, "cannot be read: "+err.Error())
		} else {
			_ = file.Close()
		}
	}
	return errors.Join(errs...)
}

func checkURL(s string) error {
	if !strings.Contains(s, "://") {
		s = "nats://" + s
	}
	u, err := url.Parse(s)
	switch {
	case err != nil:
		return errors.New("is not a URL")
	case u.Hostname() == "":
		return errors.New("has no host; write nats://host:4222")
	case !strings.HasPrefix(u.Host, "[") && strings.Contains(u.Hostname(), ":"):
		return errors.New("has more than one port; write nats://host:4222, and several URLs separated by commas")
	case strings.ContainsAny(u.Host, " \t;|"):
		return errors.New("has a host that cannot be; write nats://host:4222, and several URLs separated by commas")
	case strings.Trim(u.Path, "/") != "" && (u.Scheme == "nats" || u.Scheme == "tls"):
		return errors.New("has a path; write nats://host:4222")
	case u.Port() != "" && !validPort(u.Port()):
		return errors.New("the port must be a number from 1 to 65535")
	case u.Scheme != "nats" && u.Scheme != "tls" && u.Scheme != "ws" && u.Scheme != "wss":
		return errors.New("the scheme must be nats, tls, ws or wss")
	}
	return nil
}

func validPort(text string) bool {
	n, err := strconv.ParseUint(text, 10, 16)
	return err == nil && n > 0
}

// redactURL hides user and password: URLs go to logs and errors.
func redactURL(s string) string {
	parts := strings.Split(s, ",")
	for i, part := range parts {
		scheme, rest, found := strings.Cut(strings.TrimSpace(part), "://")
		if !found {
			scheme, rest = "", scheme
		} else {
			scheme += "://"
		}
		// Cut at the last @: a password may hold one itself.
		if at := strings.LastIndexByte(rest, '@'); at >= 0 {
			rest = "xxx@" + rest[at+1:]
		}
		parts[i] = scheme + rest
	}
	return strings.Join(parts, ",")
}

func (c *Config) level() (slog.Level, error) {
	var l slog.Level
	err := l.UnmarshalText([]byte(c.LogLevel))
	return l, err
}

// Logger writes to standard error in the configured format. Standard output is never used.
func (c *Config) Logger() *slog.Logger {
	level, err := c.level()
	if err != nil {
		level = slog.LevelInfo
	}
	opts := &slog.HandlerOptions{Level: level}
	if c.LogFormat == "json" {
		return slog.New(telemetry.LogHandler(slog.NewJSONHandler(os.Stderr, opts)))
	}
	return slog.New(telemetry.LogHandler(slog.NewTextHandler(os.Stderr, opts)))
}
