//go:build unix

// Package realkafka runs a real Apache Kafka, one node in KRaft mode, as a child process on loopback, for tests and
// experiments that a fake broker cannot answer.
//
// It guarantees: when Run returns, the broker answers metadata requests; after Close no process is left; Restart
// comes back on the same ports with the same data. It does not guarantee durability beyond Kafka's own (no fsync per
// record), and the secured listeners are for tests: their OAUTHBEARER accepts unsigned tokens.
package realkafka

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
)

// Config says what broker to run. The zero value with a Dir is a broker with one plaintext listener.
type Config struct {
	// Dir holds the broker's data, configuration and log. One that was used before is used again. Required.
	Dir string
	// Partitions of topics that are made without a number. Default 1.
	Partitions int
	// AutoCreateTopics makes a topic when a client asks for one that does not exist.
	AutoCreateTopics bool
	// TLS adds the listeners TLSAddr and MutualTLSAddr, with certificates made in Dir.
	TLS bool
	// Users adds the listener SASLAddr, and with TLS also SASLTLSAddr. A user can come by PLAIN, SCRAM-SHA-256 and
	// SCRAM-SHA-512; OAUTHBEARER takes any unsecured JWT.
	Users []User
	// Kerberos adds the mechanism GSSAPI to the SASL listeners.
	Kerberos *Kerberos
	// Host is the name advertised to clients: 127.0.0.1 (default) or a name of it.
	Host string
	// Properties override those of server.properties.
	Properties map[string]string
	// Heap is the JVM's -Xmx. Default 768m.
	Heap string
	// Flags are further flags of the JVM. kafkatest gives -XX:TieredStopAtLevel=1, which halves the CPU of a start
	// and costs throughput.
	Flags []string
	// JarDir is where the jars are, or go. Default the user's cache directory.
	JarDir string
	// Progress takes the line that says that jars are being loaded. Default standard error.
	Progress io.Writer
}

// User is a SASL user. Names and passwords are used as they are in Kafka's configuration: keep them plain.
type User struct{ Name, Password string }

// Kerberos is the broker's identity.
type Kerberos struct {
	Principal string // kafka/host@REALM
	Keytab    string
	Conf      string // krb5.conf
}

// Real is a broker. Its methods may be called from several goroutines.
type Real struct {
	config Config
	java   string
	jars   string
	ports  map[string]int // immutable after Run
	certs  *Certificates

	mu     sync.Mutex
	cmd    *exec.Cmd     // guarded by mu; nil when no process runs
	exited chan struct{} // guarded by mu; closed when cmd has been waited for
}

// Run starts a broker and returns when it answers. It loads Kafka the first time (see Jars). Without Java or Maven
// the error is ErrUnavailable.
func Run(ctx context.Context, config Config) (*Real, error) {
	if config.Dir == "" {
		return nil, errors.New("run Kafka: no directory given")
	}
	if config.Progress == nil {
		config.Progress = os.Stderr
	}
	if config.Heap == "" {
		config.Heap = "768m"
	}
	if config.Host == "" {
		config.Host = "127.0.0.1"
	}
	java, err := exec.LookPath("java")
	if err != nil {
		return nil, fmt.Errorf("%w: java is not installed", ErrUnavailable)
	}
	jars, err := Jars(ctx, config.JarDir, config.Progress)
	if err != nil {
		return nil, err
	}
	r := &Real{config: config, java: java, jars: jars}
	if r.ports, err = freePorts(config.listeners()); err != nil {
		return nil, err
	}
	if config.TLS {
		if r.certs, err = makeCertificates(filepath.Join(config.Dir, "certificates")); err != nil {
			return nil, err
		}
	}
	if err := r.configure(ctx); err != nil {
		return nil, err
	}
	if err := r.Start(ctx); err != nil {
		return nil, errors.Join(err, r.Close())
	}
	return r, nil
}

// configure writes server.properties and formats the data directory, unless it is formatted.
func (r *Real) configure(ctx context.Context) error {
	data := filepath.Join(r.config.Dir, "data")
	if err := os.MkdirAll(data, 0o755); err != nil {
		return fmt.Errorf("make Kafka's directory: %w", err)
	}
	properties := filepath.Join(r.config.Dir, "server.properties")
	if err := os.WriteFile(properties, []byte(r.config.properties(r.ports, data, r.certs)), 0o600); err != nil {
		return fmt.Errorf("write Kafka's configuration: %w", err)
	}
	if _, err := os.Stat(filepath.Join(data, "meta.properties")); err == nil {
		return nil
	}
	id := make([]byte, 16)
	rand.Read(id) // never fails
	id[0] &= 0x7f // an id that begins with - would be read as an option
	args := []string{"-Xmx256m", "-XX:TieredStopAtLevel=1", "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn", "-cp", filepath.Join(r.jars, "*"), "kafka.tools.StorageTool",
		"format", "-t", base64.RawURLEncoding.EncodeToString(id), "-c", properties}
	for _, u := range r.config.Users {
		for _, mechanism := range []string{"SCRAM-SHA-256", "SCRAM-SHA-512"} {
			args = append(args, "--add-scram", fmt.Sprintf("%s=[name=%s,password=%s]", mechanism, u.Name, u.Password))
		}
	}
	if out, err := exec.CommandContext(ctx, r.java, args...).CombinedOutput(); err != nil {
		return fmt.Errorf("format Kafka's directory: %w\n%s", err, out)
	}
	return nil
}

// Start starts the broker after Kill or Stop and returns when it answers.
func (r *Real) Start(ctx context.Context) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.cmd != nil {
		return errors.New("start Kafka: it is running")
	}
	log, err := os.OpenFile(r.LogFile(), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return fmt.Errorf("open Kafka's log: %w", err)
	}
	defer log.Close() // the child has its own handle
	args := []string{"-Xms128m", "-Xmx" + r.config.Heap, "-Djava.awt.headless=true",
		"-Dorg.slf4j.simpleLogger.showDateTime=true", "-Dorg.slf4j.simpleLogger.dateTimeFormat=HH:mm:ss.SSS",
		// Else pages of settings at each start.
		"-Dorg.slf4j.simpleLogger.log.kafka.server.KafkaConfig=warn",
		"-Dorg.slf4j.simpleLogger.log.org.apache.kafka.common.config=warn"}
	args = append(args, r.config.Flags...)
	if r.config.Kerberos != nil {
		args = append(args, "-Djava.security.krb5.conf="+r.config.Kerberos.Conf)
	}
	args = append(args, "-cp", filepath.Join(r.jars, "*"), "kafka.Kafka", filepath.Join(r.config.Dir, "server.properties"))
	cmd := exec.Command(r.java, args...) // not bound to ctx, which bounds the start only
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = processAttributes()
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start Kafka: %w", err)
	}
	exited := make(chan struct{})
	go func() { // ends with the process; awaited by end
		defer close(exited)
		_ = cmd.Wait() // how it ended does not matter: it is killed by design
	}()
	r.cmd, r.exited = cmd, exited
	return r.ready(ctx)
}

// ready polls metadata until the broker has registered itself. mu is held.
func (r *Real) ready(ctx context.Context) error {
	client, err := kgo.NewClient(kgo.SeedBrokers(r.Addr()), kgo.RetryTimeout(time.Second), kgo.DialTimeout(time.Second),
		kgo.RequestTimeoutOverhead(time.Second))
	if err != nil {
		return fmt.Errorf("make a client to wait for Kafka: %w", err)
	}
	defer client.Close()
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		try, cancel := context.WithTimeout(ctx, 2*time.Second)
		meta, err := kadm.NewClient(client).BrokerMetadata(try)
		cancel()
		if err == nil && len(meta.Brokers) == 1 {
			return nil
		}
		select {
		case <-r.exited:
			return fmt.Errorf("wait for Kafka: the process ended; its log ends with\n%s", r.LogTail(4096))
		case <-ctx.Done():
			return fmt.Errorf("wait for Kafka on %s: %w (last: %v); its log ends with\n%s",
				r.Addr(), context.Cause(ctx), err, r.LogTail(4096))
		case <-tick.C:
		}
	}
}

// Addr is the plaintext listener.
func (r *Real) Addr() string { return r.addr(plain) }

// TLSAddr is the listener with TLS and no client certificate.
func (r *Real) TLSAddr() string { return r.addr(tlsOnly) }

// MutualTLSAddr is the listener that demands a client certificate.
func (r *Real) MutualTLSAddr() string { return r.addr(mutualTLS) }

// SASLAddr is the listener with SASL and no TLS.
func (r *Real) SASLAddr() string { return r.addr(sasl) }

// SASLTLSAddr is the listener with SASL over TLS.
func (r *Real) SASLTLSAddr() string { return r.addr(saslTLS) }

// addr is empty when the broker has no such listener.
func (r *Real) addr(listener string) string {
	port, ok := r.ports[listener]
	if !ok {
		return ""
	}
	return fmt.Sprintf("%s:%d", r.config.Host, port)
}

// Certificates returns the certificates of the TLS listeners, nil without TLS.
func (r *Real) Certificates() *Certificates { return r.certs }

// Pid returns the process id, 0 when no process runs.
func (r *Real) Pid() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.cmd == nil {
		return 0
	}
	return r.cmd.Process.Pid
}

// LogFile is the broker's log, of all its starts.
func (r *Real) LogFile() string { return filepath.Join(r.config.Dir, "kafka.log") }

// LogTail returns the last n bytes of the log, or why it cannot be read.
func (r *Real) LogTail(n int64) string {
	f, err := os.Open(r.LogFile())
	if err != nil {
		return err.Error()
	}
	defer f.Close()
	if end, err := f.Seek(0, io.SeekEnd); err == nil && end > n {
		_, _ = f.Seek(-n, io.SeekEnd) // on failure the whole log is shown
	} else {
		_, _ = f.Seek(0, io.SeekStart)
	}
	b, err := io.ReadAll(f)
	if err != nil {
		return err.Error()
	}
	return string(b)
}
