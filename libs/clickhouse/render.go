package clickhouse

import (
	"bytes"
	"encoding/json"
	"fmt"

	"github.com/ClickHouse/ch-go/proto"
	"github.com/ClickHouse/clickhouse-go/v2/lib/column"
)

// RenderRow shows the first row of columns as a JSON object, for people: the values are as clickhouse-go
// prints them. A value of a type that it does not know is left out.
func RenderRow(columns []proto.InputColumn) ([]byte, error) {
	out := make(map[string]any, len(columns))
	for _, c := range columns {
		value, err := firstValue(c)
		if err != nil {
			continue
		}
		out[c.Name] = value
	}
	if len(out) == 0 && len(columns) > 0 {
		return nil, fmt.Errorf("none of its %d columns is of a type that can be shown", len(columns))
	}
	return json.Marshal(out)
}

func firstValue(c proto.InputColumn) (value any, err error) {
	defer func() {
		if r := recover(); r != nil { // the decoder of some rare type does not expect what it gets
			err = fmt.Errorf("show column %s: %v", c.Name, r)
		}
	}()
	if p, ok := c.Data.(proto.Preparable); ok {
		if err := p.Prepare(); err != nil {
			return nil, err
		}
	}
	var buf proto.Buffer
	if s, ok := c.Data.(proto.StateEncoder); ok {
		s.EncodeState(&buf)
	}
	c.Data.EncodeColumn(&buf)
	decoded, err := column.Type(c.Data.Type()).Column(c.Name, &column.ServerContext{Revision: revision})
	if err != nil {
		return nil, err
	}
	r := proto.NewReader(bytes.NewReader(buf.Buf))
	if s, ok := decoded.(column.CustomSerialization); ok {
		if err := s.ReadStatePrefix(r); err != nil {
			return nil, err
		}
	}
	if err := decoded.Decode(r, c.Data.Rows()); err != nil {
		return nil, err
	}
	value = decoded.Row(0, false)
	if _, err := json.Marshal(value); err != nil { // NaN, say
		return fmt.Sprint(value), nil
	}
	return value, nil
}
