package clickhouse

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/ClickHouse/ch-go/proto"
)

// decodeQuery reads what follows the code of a Query packet.
func (c *conn) decodeQuery() (*proto.Query, error) {
	q := &proto.Query{}
	if proto.FeatureSettingsSerializedAsStrings.In(c.version) {
		if err := q.DecodeAware(c.reader, c.version); err != nil {
			return nil, fmt.Errorf("read a query: %w", err)
		}
		return q, nil
	}
	if err := c.decodeOldQuery(q); err != nil {
		return nil, fmt.Errorf("read a query of an old client: %w", err)
	}
	return q, nil
}

// decodeOldQuery is for clients before 20.x, whose settings are binary and do not say how.
func (c *conn) decodeOldQuery(q *proto.Query) (err error) {
	r := c.reader
	if q.ID, err = r.Str(); err != nil {
		return err
	}
	if err = q.Info.DecodeAware(r, c.version); err != nil {
		return err
	}
	for {
		name, err := r.Str()
		if err != nil {
			return err
		}
		if name == "" {
			break
		}
		value, err := c.oldSetting(name)
		if err != nil {
			return err
		}
		q.Settings = append(q.Settings, proto.Setting{Key: name, Value: value})
	}
	stage, err := r.UVarInt()
	if err != nil {
		return err
	}
	q.Stage = proto.Stage(stage)
	compression, err := r.UVarInt()
	if err != nil {
		return err
	}
	q.Compression = proto.Compression(compression)
	q.Body, err = r.Str()
	return err
}

// oldSetting reads a value: numbers, switches and times are a variable-length number, all else is a string.
func (c *conn) oldSetting(name string) (string, error) {
	typ, err := c.session.query("SELECT type FROM system.settings WHERE name = "+quoteText(name), "TabSeparated")
	if err != nil {
		return "", err
	}
	switch t := strings.TrimSpace(string(typ)); t {
	case "":
		return "", fmt.Errorf("setting %q is not known, nor how long its value is", name)
	case "Bool", "UInt64", "Int64", "MaxThreads", "NonZeroUInt64", "Seconds", "Milliseconds", "UInt64Auto", "BoolAuto":
		n, err := c.reader.UVarInt()
		return strconv.FormatUint(n, 10), err
	default:
		return c.reader.Str()
	}
}
