package spec

import (
	"fmt"
	"net"
	"strconv"
	"strings"
	"time"

	controlv1 "sluice/gen/sluice/control/v1"
)

// kafka checks the Kafka part of a source; field is where it stands.
func (c *checks) kafka(field string, k *controlv1.KafkaSource) {
	if k == nil {
		return
	}
	for i, broker := range k.Brokers {
		c.hostPort(fmt.Sprintf("%s.brokers[%d]", field, i), broker, "9092")
	}
	if k.Topic == "." || k.Topic == ".." {
		c.add(field+".topic", k.Topic, "is not a topic's name", remedy(field+".topic"))
	}
	if _, err := ParseStart(k.Start); err != nil {
		c.add(field+".start", k.Start, "is no place to start", err.Error())
	}
	if _, known := controlv1.Isolation_name[int32(k.Isolation)]; !known {
		c.add(field+".isolation", fmt.Sprint(int32(k.Isolation)), "is not known", "give READ_COMMITTED or READ_UNCOMMITTED")
	}
	c.tls(field+".tls", k.Tls)
	c.sasl(field+".sasl", k.Sasl)
}

// Start is where a new pipeline begins to read.
type Start struct {
	Latest bool
	Time   time.Time // set when a time was given; neither: earliest
}

// ParseStart reads the field kafka.start; "" is EARLIEST.
func ParseStart(text string) (Start, error) {
	switch strings.ToUpper(text) {
	case "", StartEarliest:
		return Start{}, nil
	case StartLatest:
		return Start{Latest: true}, nil
	}
	at, err := time.Parse(time.RFC3339Nano, text)
	if err != nil || at.UnixMilli() < 0 {
		return Start{}, fmt.Errorf("give EARLIEST, LATEST or a time since 1970 such as 2026-01-31T00:00:00Z")
	}
	return Start{Time: at}, nil
}

func (c *checks) hostPort(field, address, port string) {
	if address == "" {
		return // said by the rules of the definition
	}
	remedy := "give host:port, such as localhost:" + port
	if _, rest, ok := strings.Cut(address, "://"); ok {
		c.add(field, address, "is a URL", "give host:port without the scheme: "+rest)
		return
	}
	host, portText, err := net.SplitHostPort(address)
	switch n, portErr := strconv.ParseUint(portText, 10, 16); {
	case err != nil && !strings.Contains(address, ":"):
		c.add(field, address, "has no port", "give "+address+":"+port)
	case err != nil:
		c.add(field, address, "is not host:port", remedy)
	case host == "" || strings.ContainsAny(host, " \t\r\n/@,;"):
		c.add(field, address, "has no valid host", remedy)
	case portErr != nil || n == 0:
		c.add(field, address, "has no valid port", remedy)
	}
}

func (c *checks) tls(field string, t *controlv1.TLS) {
	switch {
	case t == nil:
	case t.CertFile != "" && t.KeyFile == "":
		c.add(field+".key_file", "", "is missing", "give the PEM file of the key of cert_file "+t.CertFile)
	case t.CertFile == "" && t.KeyFile != "":
		c.add(field+".cert_file", "", "is missing", "give the PEM file of the certificate of key_file "+t.KeyFile)
	}
}

// sasl checks that a mechanism has what it needs and nothing that it would ignore: a credential that
// is silently not used is a mistake that shows itself late.
func (c *checks) sasl(field string, s *controlv1.SASL) {
	if s == nil {
		return
	}
	mechanism := s.Mechanism.String()
	need := func(missing bool, name, remedy string) {
		if missing {
			c.add(field+"."+name, "", "is missing; "+mechanism+" needs it", remedy)
		}
	}
	unused := func(set bool, name string) {
		if set {
			c.add(field+"."+name, "", "is not used by "+mechanism, "leave it out, or give another mechanism")
		}
	}
	const secret = "say where the secret is: {env: NAME} or {file: PATH}"
	switch s.Mechanism {
	case controlv1.SASL_PLAIN, controlv1.SASL_SCRAM_SHA_256, controlv1.SASL_SCRAM_SHA_512:
		need(s.Username == "", "username", "give the user's name")
		need(s.Password == nil, "password", secret)
		unused(s.Token != nil, "token")
		unused(s.Oauth != nil, "oauth")
		unused(s.Gssapi != nil, "gssapi")
	case controlv1.SASL_OAUTHBEARER:
		need(s.Token == nil && s.Oauth == nil, "oauth", "give oauth: {token_url, client_id, client_secret}, or a token")
		if s.Token != nil && s.Oauth != nil {
			c.add(field+".token", "", "stands beside oauth", "keep one of the two")
		}
		unused(s.Username != "", "username")
		unused(s.Password != nil, "password")
		unused(s.Gssapi != nil, "gssapi")
	case controlv1.SASL_GSSAPI_KERBEROS:
		keytab := s.GetGssapi().GetKeytabFile() != ""
		need(s.Username == "", "username", "give the principal's name without its realm")
		need(s.GetGssapi().GetRealm() == "", "gssapi.realm", "give the Kerberos realm")
		need(s.Password == nil && !keytab, "gssapi.keytab_file", "give the path of a keytab, or a password")
		if s.Password != nil && keytab {
			c.add(field+".password", "", "stands beside gssapi.keytab_file", "keep one of the two")
		}
		unused(s.Token != nil, "token")
		unused(s.Oauth != nil, "oauth")
	}
}
