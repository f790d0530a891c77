package spec

import (
	"fmt"
	"net"

	controlv1 "sluice/gen/sluice/control/v1"
)

// Warnings says what is allowed but may surprise.
func Warnings(p *controlv1.Pipeline) []string {
	var warnings []string
	for _, b := range Branches(p) {
		field, k := b.Field()+".kafka", b.Spec.GetKafka()
		if k.GetSasl().GetMechanism() == controlv1.SASL_PLAIN && k.GetTls() == nil {
			warnings = append(warnings, field+".sasl: PLAIN without tls sends the password over the network as it is")
		}
		if k.GetTls().GetInsecureSkipVerify() {
			warnings = append(warnings, field+".tls.insecure_skip_verify: anyone on the way can pose as the brokers; set ca_file instead")
		}
	}
	ch := p.GetSink().GetClickhouse()
	if ch.GetTls().GetInsecureSkipVerify() {
		warnings = append(warnings, "sink.clickhouse.tls.insecure_skip_verify: anyone on the way can pose as the server; set ca_file instead")
	}
	for i, address := range ch.GetAddr() {
		if _, port, err := net.SplitHostPort(address); err == nil && (port == "8123" || port == "8443") {
			warnings = append(warnings, fmt.Sprintf("sink.clickhouse.addr[%d]: %s: port %s is usually HTTP; the native protocol is usually on 9000, or 9440 with TLS", i, address, port))
		}
	}
	return warnings
}
