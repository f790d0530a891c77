package registry

import (
	"strings"

	"github.com/nats-io/nats.go"
)

// Reason is the text of an error as a status, a log or an answer shows it. The connection to NATS buffers nothing while it is away, which
// the client calls a full buffer; nobody would look for NATS by that.
func Reason(text string) string {
	return strings.ReplaceAll(text, nats.ErrReconnectBufExceeded.Error(), "NATS is not connected")
}
