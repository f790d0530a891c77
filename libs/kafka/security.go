package kafka

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"os"

	"github.com/IBM/sarama"
	"github.com/xdg-go/scram"

	controlv1 "sluice/gen/sluice/control/v1"
)

const saslField = "source.kafka.sasl"

func secure(c *sarama.Config, source *controlv1.KafkaSource) error {
	if t := source.GetTls(); t != nil {
		config, err := tlsConfig(t)
		if err != nil {
			return err
		}
		c.Net.TLS.Enable = true
		c.Net.TLS.Config = config
	}
	if s := source.GetSasl(); s != nil {
		c.Net.SASL.Enable = true
		return saslConfig(c, s)
	}
	return nil
}

func tlsConfig(t *controlv1.TLS) (*tls.Config, error) {
	config := &tls.Config{
		MinVersion:         tls.VersionTLS12,
		ServerName:         t.GetServerName(), // empty: sarama takes the host dialled
		InsecureSkipVerify: t.GetInsecureSkipVerify(),
	}
	if f := t.GetCaFile(); f != "" {
		pem, err := os.ReadFile(f)
		if err != nil {
			return nil, &ConfigError{"source.kafka.tls.ca_file", fmt.Errorf("read it on this service: %w", err)}
		}
		config.RootCAs = x509.NewCertPool()
		if !config.RootCAs.AppendCertsFromPEM(pem) {
			return nil, &ConfigError{"source.kafka.tls.ca_file", fmt.Errorf("%s holds no certificate in PEM", f)}
		}
	}
	switch cert, key := t.GetCertFile(), t.GetKeyFile(); {
	case cert == "" && key == "":
	case cert == "" || key == "":
		return nil, &ConfigError{"source.kafka.tls", errors.New("cert_file and key_file belong together: set both or neither")}
	default:
		pair, err := tls.LoadX509KeyPair(cert, key)
		if err != nil {
			return nil, &ConfigError{"source.kafka.tls.cert_file", fmt.Errorf("load it with key_file on this service: %w", err)}
		}
		config.Certificates = []tls.Certificate{pair}
	}
	return config, nil
}

func saslConfig(c *sarama.Config, s *controlv1.SASL) error {
	switch s.GetMechanism() {
	case controlv1.SASL_PLAIN:
		c.Net.SASL.Mechanism = sarama.SASLTypePlaintext
		return userAndPassword(c, s)
	case controlv1.SASL_SCRAM_SHA_256:
		c.Net.SASL.Mechanism = sarama.SASLTypeSCRAMSHA256
		c.Net.SASL.SCRAMClientGeneratorFunc = func() sarama.SCRAMClient { return &scramClient{hash: scram.SHA256} }
		return userAndPassword(c, s)
	case controlv1.SASL_SCRAM_SHA_512:
		c.Net.SASL.Mechanism = sarama.SASLTypeSCRAMSHA512
		c.Net.SASL.SCRAMClientGeneratorFunc = func() sarama.SCRAMClient { return &scramClient{hash: scram.SHA512} }
		return userAndPassword(c, s)
	case controlv1.SASL_OAUTHBEARER:
		c.Net.SASL.Mechanism = sarama.SASLTypeOAuth
		provider, err := tokenProvider(s)
		c.Net.SASL.TokenProvider = provider
		return err
	case controlv1.SASL_GSSAPI_KERBEROS:
		c.Net.SASL.Mechanism = sarama.SASLTypeGSSAPI
		return kerberos(c, s)
	}
	return &ConfigError{saslField + ".mechanism", fmt.Errorf(
		"%v is none of PLAIN, SCRAM_SHA_256, SCRAM_SHA_512, OAUTHBEARER, GSSAPI_KERBEROS", s.GetMechanism())}
}

func userAndPassword(c *sarama.Config, s *controlv1.SASL) error {
	if s.GetUsername() == "" {
		return &ConfigError{saslField + ".username", fmt.Errorf("missing: %v needs it", s.GetMechanism())}
	}
	password, err := secret(saslField+".password", s.GetPassword())
	if err != nil {
		return err
	}
	c.Net.SASL.User = s.GetUsername()
	c.Net.SASL.Password = password
	return nil
}

func kerberos(c *sarama.Config, s *controlv1.SASL) error {
	g := s.GetGssapi()
	if s.GetUsername() == "" {
		return &ConfigError{saslField + ".username", errors.New("missing: GSSAPI_KERBEROS needs the principal's name, without its realm")}
	}
	if g.GetRealm() == "" {
		return &ConfigError{saslField + ".gssapi.realm", errors.New("missing: GSSAPI_KERBEROS needs it")}
	}
	k := sarama.GSSAPIConfig{
		ServiceName:        orDefault(g.GetServiceName(), "kafka"),
		Username:           s.GetUsername(),
		Realm:              g.GetRealm(),
		KerberosConfigPath: orDefault(g.GetConfigFile(), "/etc/krb5.conf"),
		// Pre-authentication with FAST armour is not understood by all KDCs (Active Directory), and asked for by none.
		DisablePAFXFAST: true,
	}
	if _, err := os.Stat(k.KerberosConfigPath); err != nil {
		return &ConfigError{saslField + ".gssapi.config_file", fmt.Errorf("look for it on this service: %w", err)}
	}
	if f := g.GetKeytabFile(); f != "" {
		if _, err := os.Stat(f); err != nil {
			return &ConfigError{saslField + ".gssapi.keytab_file", fmt.Errorf("look for it on this service: %w", err)}
		}
		k.AuthType, k.KeyTabPath = sarama.KRB5_KEYTAB_AUTH, f
	} else {
		password, err := secret(saslField+".password", s.GetPassword())
		if err != nil {
			return err
		}
		k.AuthType, k.Password = sarama.KRB5_USER_AUTH, password
	}
	c.Net.SASL.GSSAPI = k
	return nil
}

// scramClient is one SCRAM conversation, as sarama wants it.
type scramClient struct {
	hash         scram.HashGeneratorFcn
	conversation *scram.ClientConversation
}

func (s *scramClient) Begin(user, password, authzID string) error {
	client, err := s.hash.NewClient(user, password, authzID)
	if err != nil {
		return err
	}
	s.conversation = client.NewConversation()
	return nil
}

func (s *scramClient) Step(challenge string) (string, error) { return s.conversation.Step(challenge) }
func (s *scramClient) Done() bool                            { return s.conversation.Done() }

func orDefault(s, def string) string {
	if s == "" {
		return def
	}
	return s
}
