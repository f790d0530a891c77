//go:build unix

package e2e

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/sasl/scram"

	"sluice/e2e/internal/stack"
	"sluice/libs/playground/kafka/kafkatest"
	"sluice/libs/playground/kafka/realkafka"
)

// A Kafka that wants TLS and SCRAM-SHA-512. Secrets come from the services' environment and from files; no log and no
// answer shows one, right or wrong.
func TestSecuredKafka(t *testing.T) {
	const user, password, wrong = "mover", "a-Right-Secret-4711", "a-Wrong-Secret-0815"
	kafka := kafkatest.StartReal(t, kafkatest.Options{TLS: true, Users: []realkafka.User{{Name: user, Password: password}}})
	s := stack.Run(t, bin(t), "E2E_KAFKA_PASSWORD="+password, "E2E_KAFKA_WRONG="+wrong)
	table := stack.OpenSQL(t, s.ClickHouseAddr)
	table.Exec(`CREATE TABLE secured (id UInt32) ENGINE = MergeTree ORDER BY id SETTINGS non_replicated_deduplication_window = 1000`)
	table.Exec(`CREATE TABLE secured_too AS secured`)

	pem, err := os.ReadFile(kafka.Certificates().CA)
	require.NoError(t, err)
	pool := x509.NewCertPool()
	require.True(t, pool.AppendCertsFromPEM(pem))
	producer := stack.NewProducer(t, kafka.SASLTLSAddr(), "secured", 2,
		kgo.DialTLSConfig(&tls.Config{RootCAs: pool}),
		kgo.SASL(scram.Auth{User: user, Pass: password}.AsSha512Mechanism()))
	var want []string
	for i := range 1000 {
		producer.Send(int32(i%2), nil, fmt.Appendf(nil, `{"id":%d}`, i))
		producer.Send(int32(i%2), nil, fmt.Appendf(nil, `{"id":%d}`, i))
		want = append(want, fmt.Sprint(i))
	}
	producer.Flush()

	file := filepath.Join(t.TempDir(), "password")
	require.NoError(t, os.WriteFile(file, []byte(wrong+"\n"), 0o600))
	spec := func(id, secret, ca string) string {
		return fmt.Sprintf(`
id: %s
source:
  kafka:
    brokers: ["%s"]
    topic: secured
    tls: {ca_file: %q}
    sasl: {mechanism: SCRAM_SHA_512, username: %s, password: {%s}}
dedup: {key: [id], window: 1h}
sink: {clickhouse: {addr: ["%s"], table: %s}}
`, id, kafka.SASLTLSAddr(), ca, user, secret, s.ClickHouseAddr, strings.ReplaceAll(id, "-", "_"))
	}
	ca := kafka.Certificates().CA
	var said strings.Builder
	for name, refused := range map[string]struct{ spec, contains string }{
		"wrong password in the environment": {spec("secured", "env: E2E_KAFKA_WRONG", ca), "credentials"},
		"wrong password in a file":          {spec("secured", fmt.Sprintf("file: %q", file), ca), "credentials"},
		"variable not set":                  {spec("secured", "env: E2E_KAFKA_ABSENT", ca), "E2E_KAFKA_ABSENT"},
		"no such file":                      {spec("secured", `file: "/nowhere/password"`, ca), "/nowhere/password"},
		"other authority":                   {spec("secured", "env: E2E_KAFKA_PASSWORD", kafka.Certificates().OtherCA), "certificate"},
	} {
		r := s.Run(refused.spec, "apply", "-f", "-")
		require.NotZero(t, r.Code, name)
		require.Contains(t, r.Stderr, refused.contains, name)
		require.Contains(t, r.Stderr, "source.kafka", name)
		said.WriteString(r.Stdout + r.Stderr)
	}
	require.NoError(t, os.WriteFile(file, []byte(password+"\n"), 0o600))
	said.WriteString(s.Apply(spec("secured", "env: E2E_KAFKA_PASSWORD", ca)))
	said.WriteString(s.Apply(spec("secured-too", fmt.Sprintf("file: %q", file), ca)))
	for _, id := range []string{"secured", "secured-too"} {
		s.Wait(id, 2*time.Minute)
		requireRows(t, want, table.Rows("SELECT id FROM "+strings.ReplaceAll(id, "-", "_")))
		for _, args := range [][]string{{"status", id}, {"status", id, "-o", "json"}, {"get", id}, {"get", id, "-o", "yaml"}} {
			said.WriteString(s.Do(args...))
		}
	}

	// A password that turns wrong later is waited for, visibly; nothing ends.
	require.NoError(t, os.WriteFile(file, []byte(wrong+"\n"), 0o600))
	ingestor := s.Service("ingestor")
	ingestor.Kill()
	ingestor.Start()
	stack.Await(t, 2*time.Minute, "the wrong password is shown", func() (bool, any) {
		status := s.Status("secured-too")
		return status.State == "DEGRADED" && strings.Contains(strings.Join(status.Errors, "\n"), "credentials"), status
	})
	said.WriteString(s.Do("status", "secured-too", "-o", "json"))
	require.NoError(t, os.WriteFile(file, []byte(password+"\n"), 0o600))
	producer.Send(0, nil, []byte(`{"id":1000}`))
	producer.Flush()
	require.Eventually(t, func() bool { return table.Count("secured_too") == 1001 }, 2*time.Minute, 100*time.Millisecond,
		"the pipeline does not go on with the right password")

	for _, secret := range []string{password, wrong} {
		require.NotContains(t, said.String(), secret)
		for _, p := range s.Processes() {
			require.NotContains(t, p.Log(), secret, p.Name)
		}
	}
}
