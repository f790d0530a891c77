package batch

import (
	"errors"
	"fmt"
	"math/bits"
)

// check makes sure that every per-row field has the length that the number of rows demands.
func (v *View) check() error {
	if v.Format == 0 || v.Format > FormatJoin {
		return fmt.Errorf("%w: %d; this version reads up to %d", ErrFormat, v.Format, FormatJoin)
	}
	if v.Format < FormatJoin && v.joins() {
		return fmt.Errorf("parse batch: format %d has fields of format %d", v.Format, FormatJoin)
	}
	if v.Rows > maxRows || v.ColumnsSize > maxColumnsSize {
		return fmt.Errorf("parse batch: %d rows, %d bytes of columns: more than a batch may have", v.Rows, v.ColumnsSize)
	}
	for _, field := range []struct {
		name  string
		have  int
		each  int
		empty bool
	}{
		{"keys", len(v.Keys), KeyBytes, true},
		{"times", len(v.Times), TimeBytes, true},
		{"offsets", len(v.Offsets), OffsetBytes, len(v.Origins) > 0},
		{"versions", len(v.Versions), VersionBytes, true},
		{"join keys", len(v.JoinKeys), KeyBytes, true},
		{"event times", len(v.EventTimes), TimeBytes, true},
		{"origins", len(v.Origins), OriginBytes, true},
	} {
		if field.have != v.Rows*field.each && (!field.empty || field.have != 0) {
			return fmt.Errorf("parse batch: %s has %d bytes for %d rows", field.name, field.have, v.Rows)
		}
	}
	selected := v.Rows
	if len(v.Selection) != 0 {
		if len(v.Selection) != (v.Rows+7)/8 {
			return fmt.Errorf("parse batch: selection has %d bytes for %d rows", len(v.Selection), v.Rows)
		}
		if tail := v.Rows % 8; tail != 0 && v.Selection[len(v.Selection)-1]>>tail != 0 {
			return errors.New("parse batch: selection has bits beyond the last row")
		}
		selected = 0
		for _, b := range v.Selection {
			selected += bits.OnesCount8(b)
		}
	}
	if selected != v.Selected {
		return fmt.Errorf("parse batch: selection keeps %d rows, not %d as said", selected, v.Selected)
	}
	return nil
}
