//go:build unix

package kafka_test

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	controlv1 "sluice/gen/sluice/control/v1"
	"sluice/libs/kafka"
	"sluice/libs/playground/kafka/kafkatest"
	"sluice/libs/playground/kafka/realkafka"
)

const realm = "SLUICE.TEST"

// kdc is a Kerberos realm of the test's own.
type kdc struct {
	dir, conf string
	env       []string
}

// startKDC needs Debian's krb5-kdc and krb5-admin-server; without them the test is skipped, or fails with CI=true.
func startKDC(t *testing.T) *kdc {
	t.Helper()
	for _, tool := range []string{"krb5kdc", "kdb5_util", "kadmin.local"} {
		if _, err := exec.LookPath(tool); err != nil {
			if os.Getenv("CI") == "true" {
				t.Fatalf("%s is not installed (krb5-kdc, krb5-admin-server)", tool)
			}
			t.Skipf("%s is not installed (krb5-kdc, krb5-admin-server)", tool)
		}
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	addr := l.Addr().String()
	require.NoError(t, l.Close())
	k := &kdc{dir: t.TempDir()}
	k.conf = k.file(t, "krb5.conf", fmt.Sprintf(`[libdefaults]
 default_realm = %[1]s
 dns_lookup_kdc = false
 dns_canonicalize_hostname = false
 rdns = false
 udp_preference_limit = 1
[realms]
 %[1]s = {
  kdc = %[2]s
 }
`, realm, addr))
	profile := k.file(t, "kdc.conf", fmt.Sprintf(`[kdcdefaults]
 kdc_listen = ""
 kdc_tcp_listen = %[2]s
[realms]
 %[1]s = {
  database_name = %[3]s/principal
  key_stash_file = %[3]s/stash
  acl_file = %[3]s/acl
 }
`, realm, addr, k.dir))
	k.env = append(os.Environ(), "KRB5_CONFIG="+k.conf, "KRB5_KDC_PROFILE="+profile)
	k.run(t, "kdb5_util", "create", "-s", "-P", "master", "-r", realm)

	log, err := os.Create(filepath.Join(k.dir, "kdc.log"))
	require.NoError(t, err)
	server := exec.Command("krb5kdc", "-n", "-r", realm)
	server.Env, server.Stdout, server.Stderr = k.env, log, log
	require.NoError(t, server.Start())
	t.Cleanup(func() {
		_ = server.Process.Kill()
		_ = server.Wait() // killed
		_ = log.Close()
	})
	require.Eventually(t, func() bool {
		c, err := net.DialTimeout("tcp", addr, time.Second)
		if err == nil {
			_ = c.Close()
		}
		return err == nil
	}, time.Minute, 20*time.Millisecond)
	return k
}

func (k *kdc) file(t *testing.T, name, content string) string {
	t.Helper()
	f := filepath.Join(k.dir, name)
	require.NoError(t, os.WriteFile(f, []byte(content), 0o600))
	return f
}

func (k *kdc) run(t *testing.T, name string, args ...string) {
	t.Helper()
	cmd := exec.Command(name, args...)
	cmd.Env = k.env
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, "%s %v: %s", name, args, out)
}

func TestKerberosAgainstRealKafka(t *testing.T) {
	k := startKDC(t)
	brokerKeys, userKeys := filepath.Join(k.dir, "broker.keytab"), filepath.Join(k.dir, "user.keytab")
	k.run(t, "kadmin.local", "-r", realm, "addprinc", "-randkey", "kafka/localhost")
	k.run(t, "kadmin.local", "-r", realm, "ktadd", "-k", brokerKeys, "kafka/localhost")
	k.run(t, "kadmin.local", "-r", realm, "addprinc", "-pw", "s3cret-x", "sluice")
	k.run(t, "kadmin.local", "-r", realm, "ktadd", "-norandkey", "-k", userKeys, "sluice")

	r := kafkatest.StartReal(t, realkafka.Config{Host: "localhost", Kerberos: &realkafka.Kerberos{
		Principal: "kafka/localhost@" + realm, Keytab: brokerKeys, Conf: k.conf}})
	createTopic(t, client(t, r.Addr()), "t", 1, nil)
	kerberos := func(password, keytab string) *controlv1.KafkaSource {
		s := source(r.SASLAddr(), "t")
		s.Sasl = &controlv1.SASL{Mechanism: controlv1.SASL_GSSAPI_KERBEROS, Username: "sluice",
			Gssapi: &controlv1.GSSAPI{Realm: realm, ConfigFile: k.conf, KeytabFile: keytab}}
		if password != "" {
			s.Sasl.Password = fromFile(k.file(t, "password", password))
		}
		return s
	}
	for name, s := range map[string]*controlv1.KafkaSource{"keytab": kerberos("", userKeys), "password": kerberos("s3cret-x", "")} {
		topic, err := open(t, s).Topic(within(t, time.Minute), "t")
		require.NoError(t, err, name)
		require.Equal(t, []int32{0}, topic.Partitions)
	}
	_, err := kafka.Open(within(t, time.Minute), kerberos("wrong-one", ""), "sluice-test")
	require.Error(t, err)
	require.NotContains(t, err.Error(), "wrong-one")
	require.True(t, kafka.Permanent(err), "%v", err)
	require.ErrorContains(t, err, "source.kafka.sasl")
}
