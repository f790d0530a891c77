package rows

import (
	"bytes"
	"encoding/json"
	"errors"
	"unicode/utf8"

	"sluice/libs/jsonread"
	"sluice/libs/native"
	"sluice/libs/spec"
)

// appendMetadata appends a column's Kafka metadata. What the record lacks is NULL or the table's
// default where the column has one of them; a key or header is else the empty string, a timestamp
// an error.
func (p *Parser) appendMetadata(c *column, to *native.Column) error {
	rec := &p.record
	switch c.meta {
	case spec.MetaPartition:
		return to.AppendInt(int64(rec.Partition))
	case spec.MetaOffset:
		return to.AppendInt(rec.Offset)
	case spec.MetaTimestamp:
		if rec.TimestampMS < 0 {
			return to.AppendMissing()
		}
		return to.AppendTime(rec.TimestampMS)
	case spec.MetaTopic:
		p.scratch = append(p.scratch[:0], rec.Topic...)
		return appendText(c, to, p.scratch)
	case spec.MetaKey:
		return appendText(c, to, rec.Key)
	default:
		return appendText(c, to, lastHeader(rec.Headers, c.header))
	}
}

// appendText appends bytes as a string. A String column takes any bytes; a type that keeps its
// values as JSON takes what can be a JSON string.
func appendText(c *column, to *native.Column, b []byte) error {
	switch {
	case b == nil:
		return to.AppendJSON(c.absent)
	case !c.escaped:
		return to.AppendString(b)
	case !utf8.Valid(b):
		return errors.New("invalid UTF-8 does not fit the type " + c.typ.String())
	}
	quoted, err := json.Marshal(string(b))
	if err != nil {
		return err
	}
	inside := quoted[1 : len(quoted)-1]
	return to.AppendJSON(jsonread.Value{Kind: jsonread.String, Escaped: bytes.IndexByte(inside, '\\') >= 0, Raw: inside})
}

func lastHeader(headers []Header, name string) []byte {
	for i := len(headers) - 1; i >= 0; i-- {
		if string(headers[i].Key) == name {
			return headers[i].Value
		}
	}
	return nil
}
