package clickhouse

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/ClickHouse/ch-go/proto"
)

// decodeQuery reads what follows the code of a Query packet.
func (c *conn) decodeQuery() (*proto.Query, error) {
	q, err := c.packet(maxQueryBytes).query(c.version, c.oldSetting)
	if err != nil {
		return nil, fmt.Errorf("read a query: %w", err)
	}
	return q, nil
}

// packet begins to read a packet that may have so many bytes.
func (c *conn) packet(most int) *packet { return &packet{src: c.raw, left: most} }

// oldSetting reads a value, which does not say how long it is: numbers, switches and times are a variable-length
// number, all else is a string.
func (c *conn) oldSetting(p *packet, name string) (string, error) {
	typ, err := c.session.query("SELECT type FROM system.settings WHERE name = "+quoteText(name), "TabSeparated")
	if err != nil {
		return "", err
	}
	switch t := strings.TrimSpace(string(typ)); t {
	case "":
		return "", fmt.Errorf("setting %q is not known, nor how long its value is", name)
	case "Bool", "UInt64", "Int64", "MaxThreads", "NonZeroUInt64", "Seconds", "Milliseconds", "UInt64Auto", "BoolAuto":
		n, err := p.uvarint()
		return strconv.FormatUint(n, 10), err
	default:
		return p.string()
	}
}
