package kafka_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/IBM/sarama"
	"github.com/stretchr/testify/require"

	controlv1 "sluice/gen/sluice/control/v1"
	"sluice/libs/kafka"
)

func fromFile(name string) *controlv1.Secret {
	return &controlv1.Secret{From: &controlv1.Secret_File{File: name}}
}

func withSASL(s *controlv1.SASL) *controlv1.KafkaSource {
	return &controlv1.KafkaSource{Brokers: []string{"b:9092"}, Topic: "t", Sasl: s}
}

func TestConfigFaultsNameTheFieldAndNeverTheSecret(t *testing.T) {
	dir := t.TempDir()
	empty, junk := filepath.Join(dir, "empty"), filepath.Join(dir, "junk")
	require.NoError(t, os.WriteFile(empty, []byte("\n"), 0o600))
	require.NoError(t, os.WriteFile(junk, []byte("hush-hush"), 0o600))
	t.Setenv("SLUICE_TEST_EMPTY", "")
	env := func(name string) *controlv1.Secret {
		return &controlv1.Secret{From: &controlv1.Secret_Env{Env: name}}
	}
	plain := func(s *controlv1.Secret) *controlv1.KafkaSource {
		return withSASL(&controlv1.SASL{Mechanism: controlv1.SASL_PLAIN, Username: "u", Password: s})
	}
	tls := func(c *controlv1.TLS) *controlv1.KafkaSource { return &controlv1.KafkaSource{Tls: c} }
	gssapi := func(g *controlv1.GSSAPI) *controlv1.KafkaSource {
		return withSASL(&controlv1.SASL{Mechanism: controlv1.SASL_GSSAPI_KERBEROS, Username: "u", Gssapi: g})
	}
	oauth := func(s *controlv1.SASL) *controlv1.KafkaSource {
		s.Mechanism = controlv1.SASL_OAUTHBEARER
		return withSASL(s)
	}
	for want, s := range map[string]*controlv1.KafkaSource{
		"source.kafka.sasl.password: environment variable SLUICE_TEST_NONE is not set on this service":   plain(env("SLUICE_TEST_NONE")),
		"source.kafka.sasl.password: environment variable SLUICE_TEST_EMPTY is empty on this service":    plain(env("SLUICE_TEST_EMPTY")),
		"source.kafka.sasl.password: read the secret on this service: open " + dir + "/none":             plain(fromFile(dir + "/none")),
		"source.kafka.sasl.password: file " + empty + " is empty":                                        plain(fromFile(empty)),
		"source.kafka.sasl.password: missing":                                                            plain(nil),
		"source.kafka.sasl.username: missing: SCRAM_SHA_256":                                             withSASL(&controlv1.SASL{Mechanism: controlv1.SASL_SCRAM_SHA_256}),
		"source.kafka.sasl.mechanism: MECHANISM_UNSPECIFIED is none of":                                  withSASL(&controlv1.SASL{}),
		"source.kafka.sasl: OAUTHBEARER needs token":                                                     oauth(&controlv1.SASL{}),
		"source.kafka.sasl.oauth.client_secret: missing":                                                 oauth(&controlv1.SASL{Oauth: &controlv1.OAuth{TokenUrl: "http://x"}}),
		"source.kafka.sasl: token and oauth exclude each other":                                          oauth(&controlv1.SASL{Token: fromFile(junk), Oauth: &controlv1.OAuth{}}),
		"source.kafka.sasl.gssapi.realm: missing":                                                        gssapi(nil),
		"source.kafka.sasl.gssapi.config_file: look for it on this service":                              gssapi(&controlv1.GSSAPI{Realm: "R", ConfigFile: dir + "/none"}),
		"source.kafka.sasl.gssapi.keytab_file: look for it on this service":                              gssapi(&controlv1.GSSAPI{Realm: "R", ConfigFile: junk, KeytabFile: dir + "/none"}),
		"source.kafka.tls.ca_file: read it on this service":                                              tls(&controlv1.TLS{CaFile: dir + "/none"}),
		"source.kafka.tls.ca_file: " + junk + " holds no certificate in PEM":                             tls(&controlv1.TLS{CaFile: junk}),
		"source.kafka.tls: cert_file and key_file belong together":                                       tls(&controlv1.TLS{CertFile: junk}),
		"source.kafka.tls.cert_file: load it with key_file on this service: tls: failed to find any PEM": tls(&controlv1.TLS{CertFile: junk, KeyFile: junk}),
	} {
		_, err := kafka.Config(s, "sluice")
		require.ErrorContains(t, err, want)
		var config *kafka.ConfigError
		require.ErrorAs(t, err, &config)
		require.True(t, kafka.Permanent(err))
		require.NotContains(t, err.Error(), "hush-hush")
	}
}

func TestSecretsAreReadAtEachUse(t *testing.T) {
	file := filepath.Join(t.TempDir(), "password")
	s := withSASL(&controlv1.SASL{Mechanism: controlv1.SASL_SCRAM_SHA_512, Username: "u", Password: fromFile(file)})
	for content, want := range map[string]string{"one\n": "one", "two\r\n": "two", " three ": " three ", "four\n\n": "four\n"} {
		require.NoError(t, os.WriteFile(file, []byte(content), 0o600))
		c, err := kafka.Config(s, "sluice")
		require.NoError(t, err)
		require.Equal(t, want, c.Net.SASL.Password)
	}
}

func TestKerberosConfig(t *testing.T) {
	dir := t.TempDir()
	conf, keytab, password := filepath.Join(dir, "krb5.conf"), filepath.Join(dir, "keytab"), filepath.Join(dir, "password")
	for _, f := range []string{conf, keytab, password} {
		require.NoError(t, os.WriteFile(f, []byte("x"), 0o600))
	}
	s := &controlv1.SASL{Mechanism: controlv1.SASL_GSSAPI_KERBEROS, Username: "sluice",
		Gssapi: &controlv1.GSSAPI{Realm: "EXAMPLE.ORG", ConfigFile: conf, KeytabFile: keytab}}
	c, err := kafka.Config(withSASL(s), "sluice")
	require.NoError(t, err)
	require.EqualValues(t, "GSSAPI", c.Net.SASL.Mechanism)
	require.Equal(t, sarama.GSSAPIConfig{AuthType: sarama.KRB5_KEYTAB_AUTH, KeyTabPath: keytab, KerberosConfigPath: conf,
		ServiceName: "kafka", Username: "sluice", Realm: "EXAMPLE.ORG", DisablePAFXFAST: true}, c.Net.SASL.GSSAPI)

	s.Gssapi.KeytabFile, s.Gssapi.ServiceName, s.Password = "", "broker", fromFile(password)
	c, err = kafka.Config(withSASL(s), "sluice")
	require.NoError(t, err)
	require.Equal(t, sarama.GSSAPIConfig{AuthType: sarama.KRB5_USER_AUTH, Password: "x", KerberosConfigPath: conf,
		ServiceName: "broker", Username: "sluice", Realm: "EXAMPLE.ORG", DisablePAFXFAST: true}, c.Net.SASL.GSSAPI)
}

// What a consumer relies on: a change here changes what can be lost.
func TestConfigNeverSkips(t *testing.T) {
	for isolation, want := range map[controlv1.Isolation]sarama.IsolationLevel{
		controlv1.Isolation_ISOLATION_UNSPECIFIED: sarama.ReadCommitted,
		controlv1.Isolation_READ_COMMITTED:        sarama.ReadCommitted,
		controlv1.Isolation_READ_UNCOMMITTED:      sarama.ReadUncommitted,
	} {
		c, err := kafka.Config(&controlv1.KafkaSource{Isolation: isolation}, "sluice")
		require.NoError(t, err)
		require.Equal(t, want, c.Consumer.IsolationLevel)
		require.Equal(t, sarama.OffsetOldest, c.Consumer.Offsets.Initial)
		require.False(t, c.Consumer.Group.ResetInvalidOffsets)
		require.Zero(t, c.Consumer.Fetch.Max, "with a maximum sarama skips larger records")
		require.False(t, c.Metadata.AllowAutoTopicCreation)
	}
}
