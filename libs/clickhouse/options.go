package clickhouse

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"time"

	driver "github.com/ClickHouse/clickhouse-go/v2"

	controlv1 "sluice/gen/sluice/control/v1"
)

const (
	// dialTimeout bounds one attempt at one address, so that a dead replica costs little.
	dialTimeout = 5 * time.Second
	// defaultPort is the port of the native protocol.
	defaultPort    = "9000"
	defaultTLSPort = "9440"
)

// ConfigError is a fault in what a user wrote or in the machine that a service runs on: retrying alone
// does not help, but somebody may repair it while the pipeline waits.
type ConfigError struct {
	Field string // path in the pipeline, such as sink.clickhouse.password
	Err   error
}

func (e *ConfigError) Error() string { return e.Field + ": " + e.Err.Error() }
func (e *ConfigError) Unwrap() error { return e.Err }

// TableName is the table that a sink names: `table` may carry its database, as db.table, when
// `database` is empty.
func TableName(sink *controlv1.ClickHouseSink) Name {
	if db := sink.GetDatabase(); db != "" {
		return Name{db, sink.GetTable()}
	}
	if db, table, ok := strings.Cut(sink.GetTable(), "."); ok && db != "" && table != "" {
		return Name{db, table}
	}
	return Name{"default", sink.GetTable()}
}

// password resolves the secret at the time of use: a rotated password is picked up by the next connection.
func password(s *controlv1.Secret) (string, error) {
	const field = "sink.clickhouse.password"
	switch from := s.GetFrom().(type) {
	case nil:
		return "", nil
	case *controlv1.Secret_Env:
		value, ok := os.LookupEnv(from.Env)
		if !ok {
			return "", &ConfigError{field, fmt.Errorf("environment variable %s is not set on this service", from.Env)}
		}
		return value, nil
	case *controlv1.Secret_File:
		data, err := os.ReadFile(from.File)
		if err != nil {
			return "", &ConfigError{field, fmt.Errorf("read the secret: %w", err)}
		}
		text := strings.TrimSuffix(string(data), "\n")
		return strings.TrimSuffix(text, "\r"), nil
	default:
		return "", &ConfigError{field, errors.New("neither env nor file is set")}
	}
}

// tlsConfig is nil when the sink does not use TLS. The server's name is left to the dialler when it is
// not given, since it is the host of whichever address is tried.
func tlsConfig(t *controlv1.TLS) (*tls.Config, error) {
	if t == nil {
		return nil, nil
	}
	const field = "sink.clickhouse.tls"
	c := &tls.Config{
		MinVersion:         tls.VersionTLS12,
		ServerName:         t.GetServerName(),
		InsecureSkipVerify: t.GetInsecureSkipVerify(), // said to be for tests only, in the message's comment
	}
	if file := t.GetCaFile(); file != "" {
		pem, err := os.ReadFile(file)
		if err != nil {
			return nil, &ConfigError{field + ".ca_file", err}
		}
		c.RootCAs = x509.NewCertPool()
		if !c.RootCAs.AppendCertsFromPEM(pem) {
			return nil, &ConfigError{field + ".ca_file", fmt.Errorf("%s: no PEM certificate in it", file)}
		}
	}
	if t.GetCertFile() != "" || t.GetKeyFile() != "" {
		cert, err := tls.LoadX509KeyPair(t.GetCertFile(), t.GetKeyFile())
		if err != nil {
			return nil, &ConfigError{field + ".cert_file", err}
		}
		c.Certificates = []tls.Certificate{cert}
	}
	return c, nil
}

// addresses are the sink's addresses with their ports.
func addresses(sink *controlv1.ClickHouseSink) []string {
	port := defaultPort
	if sink.GetTls() != nil {
		port = defaultTLSPort
	}
	out := make([]string, 0, len(sink.GetAddr()))
	for _, a := range sink.GetAddr() {
		if _, _, err := net.SplitHostPort(a); err != nil {
			a = net.JoinHostPort(strings.Trim(a, "[]"), port)
		}
		out = append(out, a)
	}
	return out
}

func username(sink *controlv1.ClickHouseSink) string {
	if u := sink.GetUsername(); u != "" {
		return u
	}
	return "default"
}

// open connects for control: descriptions, DDL, KILL. The addresses are tried in the order given.
// The session is in no database of the user's, since that one may not exist yet.
func open(ctx context.Context, sink *controlv1.ClickHouseSink) (driver.Conn, error) {
	if len(sink.GetAddr()) == 0 {
		return nil, &ConfigError{"sink.clickhouse.addr", errors.New("no address is given")}
	}
	secret, err := password(sink.GetPassword())
	if err != nil {
		return nil, err
	}
	config, err := tlsConfig(sink.GetTls())
	if err != nil {
		return nil, err
	}
	conn, err := driver.Open(&driver.Options{
		Addr:             addresses(sink),
		Auth:             driver.Auth{Username: username(sink), Password: secret},
		TLS:              config,
		DialTimeout:      dialTimeout,
		ReadTimeout:      time.Minute,
		ConnOpenStrategy: driver.ConnOpenInOrder,
		MaxOpenConns:     2,
		MaxIdleConns:     1,
	})
	if err != nil {
		return nil, fmt.Errorf("clickhouse %s: %w", strings.Join(sink.GetAddr(), ", "), err)
	}
	if err := conn.Ping(ctx); err != nil {
		_ = conn.Close()
		return nil, fmt.Errorf("clickhouse %s: connect: %w", strings.Join(sink.GetAddr(), ", "), err)
	}
	return conn, nil
}

func execute(ctx context.Context, sink *controlv1.ClickHouseSink, what, sql string) error {
	conn, err := open(ctx, sink)
	if err != nil {
		return err
	}
	defer conn.Close()
	if err := conn.Exec(ctx, sql); err != nil {
		return fmt.Errorf("clickhouse: %s: %w", what, err)
	}
	return nil
}
