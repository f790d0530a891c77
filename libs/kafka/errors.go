package kafka

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"syscall"

	"github.com/IBM/sarama"
	"github.com/jcmturner/gokrb5/v8/krberror"

	controlv1 "sluice/gen/sluice/control/v1"
)

var (
	// ErrNoTopic says that the cluster has no such topic, or shows it to this user not.
	ErrNoTopic = errors.New("the topic does not exist")
	// ErrGone says that there is no record at an offset: expired, compacted away, a transaction's marker, or never
	// written.
	ErrGone = errors.New("the record is no longer there")
	// ErrBeyondEnd says that an offset lies past the end of its partition, as after a topic was made anew.
	ErrBeyondEnd = errors.New("the offset lies beyond the end of the partition")
)

// ConfigError is a fault of the pipeline's source as it stands on this service: a missing secret, an unreadable file.
type ConfigError struct {
	Field string // source.kafka.…
	Err   error
}

func (e *ConfigError) Error() string { return e.Field + ": " + e.Err.Error() }
func (e *ConfigError) Unwrap() error { return e.Err }

// Error is a failed call to a cluster.
type Error struct {
	Brokers []string
	Attempt string // what was attempted
	Err     error
	Hint    string // what to do; may be empty
}

func (e *Error) Error() string {
	s := fmt.Sprintf("source.kafka.brokers [%s]: %s: %v", strings.Join(e.Brokers, " "), e.Attempt, e.Err)
	if e.Hint != "" {
		s += " (" + e.Hint + ")"
	}
	return s
}

func (e *Error) Unwrap() error { return e.Err }

func wrap(source *controlv1.KafkaSource, attempt string, err error) error {
	var config *ConfigError
	if errors.As(err, &config) {
		return config // names its own field
	}
	return &Error{source.GetBrokers(), attempt, err, hint(source, err)}
}

// Permanent reports whether err stays until somebody changes the pipeline, the service's environment or the
// cluster's permissions. Everything else is worth waiting for: brokers that are down, a topic that is not there yet.
func Permanent(err error) bool {
	var (
		config    *ConfigError
		invalid   sarama.ConfigurationError
		authority x509.UnknownAuthorityError
		host      x509.HostnameError
		cert      x509.CertificateInvalidError
		record    tls.RecordHeaderError
	)
	switch {
	case errors.As(err, &config), errors.As(err, &invalid), refusedByTLS(err), refusedByKerberos(err),
		errors.As(err, &authority), errors.As(err, &host), errors.As(err, &cert), errors.As(err, &record):
		return true
	}
	for _, e := range []sarama.KError{
		sarama.ErrSASLAuthenticationFailed, sarama.ErrUnsupportedSASLMechanism, sarama.ErrIllegalSASLState,
		sarama.ErrTopicAuthorizationFailed, sarama.ErrGroupAuthorizationFailed, sarama.ErrClusterAuthorizationFailed,
		sarama.ErrInvalidTopic, sarama.ErrSecurityDisabled, sarama.ErrUnsupportedVersion,
	} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

// passing reports whether the same call may do better in a moment: an election, a connection that broke.
func passing(err error) bool {
	if Permanent(err) || errors.Is(err, sarama.ErrClosedClient) || errors.Is(err, context.Canceled) {
		return false
	}
	for _, e := range []sarama.KError{
		sarama.ErrLeaderNotAvailable, sarama.ErrNotLeaderForPartition, sarama.ErrReplicaNotAvailable,
		sarama.ErrBrokerNotAvailable, sarama.ErrFencedLeaderEpoch, sarama.ErrUnknownLeaderEpoch,
		sarama.ErrOffsetNotAvailable, sarama.ErrRequestTimedOut, sarama.ErrNetworkException, sarama.ErrKafkaStorageError,
		sarama.ErrOffsetsLoadInProgress, sarama.ErrConsumerCoordinatorNotAvailable, sarama.ErrNotCoordinatorForConsumer,
	} {
		if errors.Is(err, e) {
			return true
		}
	}
	return !isKError(err) && !errors.Is(err, ErrNoTopic) && !errors.Is(err, ErrGone) && !errors.Is(err, ErrBeyondEnd)
}

func isKError(err error) bool {
	var k sarama.KError
	return errors.As(err, &k)
}

// hint turns what sarama says into what a user can do.
func hint(source *controlv1.KafkaSource, err error) string {
	var (
		authority x509.UnknownAuthorityError
		host      x509.HostnameError
		cert      x509.CertificateInvalidError
		record    tls.RecordHeaderError
		decoding  sarama.PacketDecodingError
		dns       *net.DNSError
		op        *net.OpError
	)
	switch {
	case errors.As(err, &authority):
		return "the brokers' certificate is signed by an authority unknown here: set source.kafka.tls.ca_file"
	case errors.As(err, &host):
		return "the brokers' certificate carries another name: set source.kafka.tls.server_name to one that it carries"
	case errors.As(err, &cert):
		return "the brokers' certificate is not valid"
	case refusedByTLS(err):
		return "the brokers refused the TLS connection: they may want a client certificate that they trust, in source.kafka.tls.cert_file and key_file"
	case errors.As(err, &record):
		return "this listener does not speak TLS: leave out source.kafka.tls, or name the TLS port"
	case refusedByKerberos(err):
		return "the Kerberos server refused source.kafka.sasl: check username, password or keytab, realm and service_name"
	case errors.Is(err, sarama.ErrSASLAuthenticationFailed):
		return "the brokers refused the credentials in source.kafka.sasl"
	case errors.Is(err, sarama.ErrUnsupportedSASLMechanism), errors.Is(err, sarama.ErrIllegalSASLState):
		return "this listener does not offer the mechanism in source.kafka.sasl.mechanism"
	case errors.Is(err, sarama.ErrTopicAuthorizationFailed), errors.Is(err, sarama.ErrGroupAuthorizationFailed),
		errors.Is(err, sarama.ErrClusterAuthorizationFailed):
		return "the user needs READ and DESCRIBE on the topic, and READ and DELETE on the consumer group"
	case errors.Is(err, ErrNoTopic):
		return "create it, or correct source.kafka.topic"
	case errors.As(err, &dns):
		return "the name is unknown to this service"
	case errors.Is(err, syscall.ECONNREFUSED), errors.As(err, &op) && op.Op == "dial":
		return "is Kafka running there, and reachable from this service, at the address that the brokers advertise too?"
	case source.GetTls() == nil && errors.As(err, &decoding):
		return "this listener seems to speak TLS: set source.kafka.tls"
	case closedByPeer(err) && source.GetTls() != nil:
		return "the broker closed the connection: does this listener speak TLS, and with or without SASL as configured?"
	case closedByPeer(err):
		return "the broker closed the connection: this listener may want source.kafka.tls or source.kafka.sasl"
	}
	return ""
}

// refusedByTLS recognises an alert of the peer, whose type crypto/tls does not export.
func refusedByTLS(err error) bool {
	var op *net.OpError
	return errors.As(err, &op) && op.Op == "remote error"
}

// refusedByKerberos tells a refusal of the key distribution centre from one that cannot be reached.
func refusedByKerberos(err error) bool {
	var k krberror.Krberror
	return errors.As(err, &k) && k.RootCause != krberror.NetworkingError
}

func closedByPeer(err error) bool {
	return errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE)
}
