package spec_test

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	controlv1 "sluice/gen/sluice/control/v1"
	"sluice/libs/spec"
)

// TestEverythingWrongAtOnce is what a user reads who got everything wrong.
func TestEverythingWrongAtOnce(t *testing.T) {
	p := parse(t, `id: User Events
source:
  kafka:
    brokers: ["kafka:9092", "kafka", "http://kafka:9092", ":9092", "kafka:0", "a b:1"]
    topic: "orders?"
    start: yesterday
    isolation: 7
    tls: {cert_file: /c.pem}
    sasl: {mechanism: PLAIN, oauth: {token_url: "::", client_id: ""}, token: {}}
dedup: {key: [a, b..c, $.a, $offset, "x[0]"], window: 100d, keep: FIRST, version: v, time: $timestamp, missing_key: 9}
sink:
  clickhouse:
    addr: [ch]
    database: shop
    table: shop.orders
    tls: {key_file: /k.pem}
columns:
  - {name: a, type: String}
  - {name: a, from: $nothing}
  - {name: "", from: x}
  - {name: c, from: x.}
lanes: 1000
batch: {rows: 4000000000, bytes: 1Ti, max_delay: 1ms}
`)
	err := spec.Validate(p)
	require.Error(t, err)
	golden(t, "everything_wrong.txt", err.Error()+"\n")
	var problems *spec.Error
	require.ErrorAs(t, err, &problems)
	for _, p := range problems.Problems {
		require.NotEmpty(t, p.Field)
		require.NotEmpty(t, p.What, p.Field)
		require.NotEmpty(t, p.Remedy, p.Field)
	}
}

func TestNothingGiven(t *testing.T) {
	golden(t, "nothing_given.txt", spec.Validate(parse(t, "{}")).Error()+"\n")
	golden(t, "little_given.txt", spec.Validate(parse(t, "source: {kafka: {}}\nsink: {clickhouse: {password: {}}}\ndedup: {}\n")).Error()+"\n")
	require.Error(t, spec.Validate(nil))
}

func TestRules(t *testing.T) {
	const kafka = "source: {kafka: {brokers: [localhost:9092], topic: user-events}}"
	with := func(old, replacement string) string {
		require.Contains(t, minimal, old)
		return strings.Replace(minimal, old, replacement, 1)
	}
	sasl := func(text string) string {
		return with(kafka, "source: {kafka: {brokers: [localhost:9092], topic: user-events, sasl: "+text+"}}")
	}
	for _, c := range []struct{ name, text, want string }{
		{"long id", with("user-events", strings.Repeat("a", 64)), "id: " + strings.Repeat("a", 64) + ": is longer than 63 characters: "},
		{"LATEST without version", with("24h", "24h, keep: LATEST"), "dedup.version: is missing; keep: LATEST needs it: "},
		{"version in key", with("24h", "24h, keep: LATEST, version: event_id"), "dedup.version: event_id: is part of the key"},
		{"LATEST with version", with("24h", "24h, keep: LATEST, version: v"), ""},
		{"window", with("24h", "45d"), ""},
		{"window too long", with("24h", "45d1ms"), "dedup.window: 1080h0m0.001s: is out of bounds: "},
		{"window below a millisecond", with("24h", "500us"), "dedup.window: 500µs: is out of bounds: "},
		{"window with a fraction", with("24h", "1500us"), "dedup.window: 1.5ms: is not a whole number of milliseconds: give at least 1ms"},
		{"delay with a fraction", minimal + "batch: {max_delay: 10ms1us}\n", "batch.max_delay: 10.001ms: is not a whole number of milliseconds"},
		{"grace below a millisecond", strings.Replace(join, "  type: LEFT", "  type: LEFT\n  grace: 500us", 1), "join.grace: 500µs: is not a whole number of milliseconds: "},
		{"dedup of a source", strings.Replace(join, "topic: users}", "topic: users}, dedup: {key: [id], window: 2ms1ns}", 1), "sources.users.dedup.window: 2.000001ms: is not a whole number of milliseconds: "},
		{"start in lower case", with("topic: user-events", "topic: user-events, start: latest"), ""},
		{"three names", with("table: user_events", "table: a.b.c"), "sink.clickhouse.table: a.b.c: is not table or database.table: "},
		{"PLAIN", sasl("{mechanism: PLAIN, username: u, password: {env: P}}"), ""},
		{"PLAIN without password", sasl("{mechanism: PLAIN, username: u}"), "source.kafka.sasl.password: is missing; PLAIN needs it: "},
		{"no mechanism", sasl("{username: u}"), "source.kafka.sasl.mechanism: is missing: "},
		{"OAUTHBEARER with token", sasl("{mechanism: OAUTHBEARER, token: {file: /t}}"), ""},
		{"OAUTHBEARER with client", sasl("{mechanism: OAUTHBEARER, oauth: {token_url: 'https://h/t', client_id: c, client_secret: {env: S}}}"), ""},
		{"OAUTHBEARER with both", sasl("{mechanism: OAUTHBEARER, token: {env: T}, oauth: {token_url: 'https://h/t', client_id: c, client_secret: {env: S}}}"), "sasl.token: stands beside oauth"},
		{"OAUTHBEARER with nothing", sasl("{mechanism: OAUTHBEARER}"), "sasl.oauth: is missing; OAUTHBEARER needs it"},
		{"OAUTHBEARER with password", sasl("{mechanism: OAUTHBEARER, token: {env: T}, password: {env: P}}"), "sasl.password: is not used by OAUTHBEARER"},
		{"Kerberos with keytab", sasl("{mechanism: GSSAPI_KERBEROS, username: u, gssapi: {realm: R, keytab_file: /k}}"), ""},
		{"Kerberos with password", sasl("{mechanism: GSSAPI_KERBEROS, username: u, password: {env: P}, gssapi: {realm: R}}"), ""},
		{"Kerberos with nothing", sasl("{mechanism: GSSAPI_KERBEROS}"), "sasl.gssapi.realm: is missing; GSSAPI_KERBEROS needs it"},
	} {
		t.Run(c.name, func(t *testing.T) {
			err := spec.Validate(parse(t, c.text))
			if c.want == "" {
				require.NoError(t, err)
				return
			}
			require.ErrorContains(t, err, c.want)
			require.Len(t, strings.Split(err.Error(), "\n"), strings.Count(c.want, "is missing; GSSAPI")*2+1, "one mistake, one line: %v", err)
		})
	}
}

// TestEverythingWrongWithAJoin is what a user reads who got everything wrong about two sources.
func TestEverythingWrongWithAJoin(t *testing.T) {
	for name, text := range map[string]string{
		"join_wrong.txt": `id: a
source: {kafka: {brokers: [k:9092], topic: t}}
dedup: {key: [a], window: 1h}
sources:
  orders:
    kafka: {brokers: [k], topic: "orders?", group: sluice-a-users, sasl: {mechanism: PLAIN}}
    dedup: {key: [a, $.a], window: 100d, keep: LATEST}
    time: $timestamp
  users: {kafka: {brokers: []}}
join:
  left: order
  right: order
  on: [{left: a..b, right: $key}, {left: "", right: "x[0]"}, {left: a, right: b}, {left: a, right: $.b}]
  kind: 7
  type: 9
  window: 0s
  grace: -1s
  idle: 100d
  memory: 1
sink: {clickhouse: {addr: [c:9000], table: t}}
columns: [{name: o, from: $offset}, {name: p, from: orders.$offset}, {name: q, from: orders.$nothing}, {name: r, from: orders.a..b}]
`,
		"join_interval.txt": strings.Replace(join, "window: 1h\n  type: LEFT", "wait: 1s", 1),
		"join_alone.txt":    "id: a\njoin: {}\nsink: {clickhouse: {addr: [c:9000], table: t}}\n",
		"join_sources.txt": `id: a
sources: {"Orders 1": {kafka: {brokers: [k:9092], topic: t}}}
sink: {clickhouse: {addr: [c:9000], table: t}}
`,
		"join_three.txt": strings.Replace(join, "sources:\n", "sources:\n  third: {kafka: {brokers: [k:9092], topic: t}}\n", 1),
		"join_time.txt": `id: a
source: {kafka: {brokers: [k:9092], topic: t}, time: at, dedup: {key: [a], window: 1h}}
sink: {clickhouse: {addr: [c:9000], table: t}}
`,
	} {
		t.Run(name, func(t *testing.T) {
			p := parse(t, text)
			err := spec.Validate(p)
			require.Error(t, err)
			golden(t, name, err.Error()+"\n")
			var problems *spec.Error
			require.ErrorAs(t, err, &problems)
			for _, p := range problems.Problems {
				require.NotEmpty(t, p.Field)
				require.NotEmpty(t, p.What, p.Field)
				require.NotEmpty(t, p.Remedy, p.Field)
			}
			for range 20 { // maps have no order
				require.Equal(t, err.Error(), spec.Validate(p).Error())
			}
		})
	}
}

func TestJoinsThatAreRight(t *testing.T) {
	for name, text := range map[string]string{
		"interval":                     join,
		"self join":                    strings.Replace(join, "topic: users", "topic: orders", 1),
		"lookup for good":              strings.Replace(join, "  window: 1h\n  type", "  kind: LOOKUP\n  type", 1),
		"lookup with window and wait":  strings.Replace(join, "  window: 1h\n  type", "  kind: LOOKUP\n  window: 7d\n  wait: 0s\n  grace: 0s\n  memory: 1Mi\n  type", 1),
		"the same group, another name": strings.Replace(join, "topic: users", "topic: orders, group: another", 1),
	} {
		t.Run(name, func(t *testing.T) {
			p := parse(t, text)
			require.NoError(t, spec.Validate(p))
			require.NoError(t, spec.Validate(spec.WithDefaults(p)))
		})
	}
}

func TestSecretsCannotBeWrittenDown(t *testing.T) {
	_, err := spec.Parse("p.yaml", []byte("sink: {clickhouse: {password: hunter2}}\n"))
	require.ErrorContains(t, err, "p.yaml:1:31")
}

func TestWarnings(t *testing.T) {
	require.Empty(t, spec.Warnings(parse(t, minimal)))
	p := parse(t, `source: {kafka: {sasl: {mechanism: PLAIN}}}
sink: {clickhouse: {addr: ["a:9000", "a:8123"], tls: {insecure_skip_verify: true}}}
`)
	got := spec.Warnings(p)
	require.Len(t, got, 3)
	require.Contains(t, got[0], "PLAIN without tls sends the password over the network")
	require.Contains(t, got[1], "sink.clickhouse.tls.insecure_skip_verify: ")
	require.Contains(t, got[2], "sink.clickhouse.addr[1]: a:8123: port 8123 is usually HTTP")
	p.Source.Kafka.Tls = p.Sink.Clickhouse.Tls
	require.Contains(t, spec.Warnings(p)[0], "source.kafka.tls.insecure_skip_verify: ")
	p = parse(t, join)
	p.Sources["users"].Kafka.Sasl = &controlv1.SASL{Mechanism: controlv1.SASL_PLAIN}
	require.Equal(t, []string{"sources.users.kafka.sasl: PLAIN without tls sends the password over the network as it is"}, spec.Warnings(p))
}
