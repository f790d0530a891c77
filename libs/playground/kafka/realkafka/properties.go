//go:build unix

package realkafka

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
)

// The listeners of the broker, by Kafka's names for them.
const (
	plain      = "PLAINTEXT"
	controller = "CONTROLLER"
	tlsOnly    = "TLS"
	mutualTLS  = "MTLS"
	sasl       = "SASL"
	saslTLS    = "SASLTLS"
)

func (c Config) listeners() []string {
	ls := []string{plain, controller}
	if c.TLS {
		ls = append(ls, tlsOnly, mutualTLS)
	}
	if c.sasl() {
		ls = append(ls, sasl)
		if c.TLS {
			ls = append(ls, saslTLS)
		}
	}
	return ls
}

func (c Config) sasl() bool { return len(c.Users) > 0 || c.Kerberos != nil }

// properties renders server.properties. Settings that a test waits for (rebalance delay, partitions of the
// internal topics) are small; everything else is as Kafka ships it.
func (c Config) properties(ports map[string]int, logs string, certs *Certificates) string {
	var listeners, advertised, protocols []string
	for _, l := range c.listeners() {
		at := fmt.Sprintf("%s://%s", l, hostPort(ports[l]))
		listeners = append(listeners, at)
		if l != controller {
			advertised = append(advertised, strings.Replace(at, "127.0.0.1", c.Host, 1))
		}
		protocols = append(protocols, l+":"+map[string]string{
			plain: "PLAINTEXT", controller: "PLAINTEXT",
			tlsOnly: "SSL", mutualTLS: "SSL", sasl: "SASL_PLAINTEXT", saslTLS: "SASL_SSL",
		}[l])
	}
	p := map[string]string{
		"process.roles":                                    "broker,controller",
		"node.id":                                          "1",
		"controller.quorum.voters":                         "1@" + hostPort(ports[controller]),
		"controller.listener.names":                        controller,
		"inter.broker.listener.name":                       plain,
		"listeners":                                        strings.Join(listeners, ","),
		"advertised.listeners":                             strings.Join(advertised, ","),
		"listener.security.protocol.map":                   strings.Join(protocols, ","),
		"log.dirs":                                         logs,
		"num.partitions":                                   strconv.Itoa(max(c.Partitions, 1)),
		"auto.create.topics.enable":                        strconv.FormatBool(c.AutoCreateTopics),
		"offsets.topic.replication.factor":                 "1",
		"offsets.topic.num.partitions":                     "4",
		"transaction.state.log.replication.factor":         "1",
		"transaction.state.log.min.isr":                    "1",
		"transaction.state.log.num.partitions":             "4",
		"share.coordinator.state.topic.replication.factor": "1",
		"share.coordinator.state.topic.min.isr":            "1",
		"group.initial.rebalance.delay.ms":                 "0",
		// A killed broker may register again only when its old session is over: 9 s by default.
		"broker.session.timeout.ms":    "4000",
		"broker.heartbeat.interval.ms": "1000",
		"message.max.bytes":            strconv.Itoa(64 << 20),
		"socket.request.max.bytes":     strconv.Itoa(128 << 20),
	}
	if c.TLS {
		p["ssl.keystore.type"] = "PEM"
		p["ssl.keystore.location"] = certs.server
		p["ssl.truststore.type"] = "PEM"
		p["ssl.truststore.location"] = certs.CA
		p["listener.name.mtls.ssl.client.auth"] = "required"
	}
	if c.sasl() {
		for _, l := range []string{sasl, saslTLS} {
			maps.Copy(p, c.saslProperties("listener.name."+strings.ToLower(l)+"."))
		}
	}
	maps.Copy(p, c.Properties)
	var b strings.Builder
	for _, k := range slices.Sorted(maps.Keys(p)) {
		fmt.Fprintf(&b, "%s=%s\n", k, p[k])
	}
	return b.String()
}

// saslProperties offers every mechanism on one listener.
func (c Config) saslProperties(prefix string) map[string]string {
	const modules = "org.apache.kafka.common.security."
	var mechanisms []string
	p := map[string]string{}
	if len(c.Users) > 0 {
		mechanisms = append(mechanisms, "PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512", "OAUTHBEARER")
		var users strings.Builder
		for _, u := range c.Users {
			fmt.Fprintf(&users, " user_%s=%q", u.Name, u.Password)
		}
		p[prefix+"plain.sasl.jaas.config"] = modules + "plain.PlainLoginModule required" + users.String() + ";"
		p[prefix+"scram-sha-256.sasl.jaas.config"] = modules + "scram.ScramLoginModule required;"
		p[prefix+"scram-sha-512.sasl.jaas.config"] = modules + "scram.ScramLoginModule required;"
		// With no handler named, Kafka takes tokens whose signature nobody checks: what a test wants.
		p[prefix+"oauthbearer.sasl.jaas.config"] = modules +
			`oauthbearer.OAuthBearerLoginModule required unsecuredLoginStringClaim_sub="broker";`
	}
	if k := c.Kerberos; k != nil {
		mechanisms = append(mechanisms, "GSSAPI")
		p[prefix+"gssapi.sasl.jaas.config"] = fmt.Sprintf(
			"com.sun.security.auth.module.Krb5LoginModule required useKeyTab=true storeKey=true keyTab=%q principal=%q;",
			k.Keytab, k.Principal)
		p[prefix+"sasl.kerberos.service.name"] = "kafka"
	}
	p[prefix+"sasl.enabled.mechanisms"] = strings.Join(mechanisms, ",")
	return p
}
