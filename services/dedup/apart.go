package dedup

import (
	"encoding/binary"
	"fmt"

	controlv1 "sluice/gen/sluice/control/v1"
	"sluice/libs/batch"
	"sluice/libs/fold"
	"sluice/libs/native"
	"sluice/libs/spec"
)

// apart takes batches apart by the lanes of their rows' join keys.
type apart struct {
	record  *controlv1.PipelineRecord
	layouts map[layoutOf][]*native.Column
	raw     []byte   // columns of the batch, decompressed
	wires   [][]byte // in raw
	columns []*native.Column
	keep    []byte // scratch: rows of one lane

	offsets, joinKeys, eventTimes, part, packed []byte // scratch of one lane's batch
}

type layoutOf struct {
	revision uint64
	source   string
}

// open finds the columns in a batch; not if they are not needed. Nothing is changed, so that a batch that cannot be taken apart is refused
// as a whole.
func (a *apart) open(v *batch.View, published bool) error {
	if len(v.JoinKeys) != v.Rows*batch.KeyBytes {
		return fmt.Errorf("a batch of source %q without join keys", v.Source)
	}
	columns, err := a.layout(layoutOf{v.SchemaRevision, string(v.Source)})
	if err != nil {
		return err
	}
	if a.columns = columns; published {
		return nil
	}
	raw, err := v.RawColumns(a.raw)
	if err != nil {
		return err
	}
	if v.Compression != 0 {
		a.raw = raw // else it is the message's own memory
	}
	a.wires = a.wires[:0]
	for range columns {
		var wire []byte
		if wire, raw, err = batch.NextColumn(raw); err != nil {
			return err
		}
		a.wires = append(a.wires, wire)
	}
	if len(raw) != 0 {
		return fmt.Errorf("%d bytes follow the last column", len(raw))
	}
	// All rows once: so that later on no lane's part of them can fail.
	for i, c := range columns {
		c.Reset()
		if err := c.AppendFromWire(a.wires[i], v.Rows, nil); err != nil {
			return err
		}
	}
	return nil
}

// layout returns empty columns for batches of a source and schema revision.
func (a *apart) layout(key layoutOf) ([]*native.Column, error) {
	if columns, ok := a.layouts[key]; ok {
		return columns, nil
	}
	for _, schema := range a.record.GetSchemas() {
		if schema.GetRevision() != key.revision {
			continue
		}
		var columns []*native.Column
		for _, c := range spec.Columns(schema, key.source) {
			t, err := native.ParseType(c.GetType())
			if err != nil {
				return nil, fmt.Errorf("schema revision %d, column %s: %w", key.revision, c.GetName(), err)
			}
			columns = append(columns, native.NewColumn(t, c.GetDefaultExpression() != ""))
		}
		if a.layouts == nil {
			a.layouts = map[layoutOf][]*native.Column{}
		}
		a.layouts[key] = columns
		return columns, nil
	}
	return nil, fmt.Errorf("it is of schema revision %d, which the pipeline does not have (yet)", key.revision)
}

// emit puts out the selected rows of a batch, each in the lane of its join key. A lane that gets a message without rows learns how far the batch's partition
// has come.
func (a *apart) emit(v *batch.View, set spec.LaneSet, to []bool, out fold.Emitter) error {
	for share, lane := range set.Lanes() {
		if !to[share] {
			continue
		}
		var failed error
		err := out.Append(lane, func(dst []byte) []byte {
			part := *v
			if failed = a.cut(&part, share, set.Count); failed != nil {
				return dst
			}
			return appendOutput(&part, dst)
		})
		if failed != nil { // open has seen that the columns can be read
			return failed
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// cut leaves in v the selected rows of one lane of a set.
func (a *apart) cut(v *batch.View, share, of int) error {
	a.keep = clearedBits(a.keep, v.Rows)
	a.offsets, a.joinKeys, a.eventTimes = a.offsets[:0], a.joinKeys[:0], a.eventTimes[:0]
	var first int64
	n := 0
	for row := range v.Rows {
		if v.Selected == 0 || !v.Selects(row) || batch.Share(v.JoinKey(row)[0], of) != share {
			continue
		}
		if n == 0 {
			first = v.Offset(row)
		}
		n++
		a.keep[row/8] |= 1 << (row % 8)
		a.offsets = binary.LittleEndian.AppendUint32(a.offsets, uint32(v.Offset(row)-first))
		a.joinKeys = append(a.joinKeys, v.JoinKeys[row*batch.KeyBytes:][:batch.KeyBytes]...)
		if len(v.EventTimes) > 0 {
			a.eventTimes = append(a.eventTimes, v.EventTimes[row*batch.TimeBytes:][:batch.TimeBytes]...)
		}
		v.LastOffset = v.Offset(row)
	}
	if n > 0 {
		v.FirstOffset = first
		a.part = a.part[:0]
		for i, c := range a.columns {
			c.Reset()
			if err := c.AppendFromWire(a.wires[i], v.Rows, a.keep); err != nil {
				return err
			}
			a.part = batch.AppendColumn(a.part, c.AppendWire)
		}
		a.packed = v.SetColumns(a.part, a.packed)
	}
	v.Offsets, v.JoinKeys, v.EventTimes, v.Selection = a.offsets, a.joinKeys, a.eventTimes, nil
	v.Rows, v.Selected = n, n
	return nil
}

func clearedBits(b []byte, n int) []byte {
	size := (n + 7) / 8
	if cap(b) < size {
		return make([]byte, size)
	}
	clear(b[:size])
	return b[:size]
}
