package dedup

import (
	eventv1 "sluice/gen/sluice/event/v1"
	"sluice/libs/batch"
)

// ownSelection gives the view a selection that may be written to, in scratch, and returns that. The message's bytes may not: they
// are the client's.
func ownSelection(v *batch.View, scratch []byte) []byte {
	n := (v.Rows + 7) / 8
	if cap(scratch) < n {
		scratch = make([]byte, n)
	}
	scratch = scratch[:n]
	if len(v.Selection) > 0 {
		copy(scratch, v.Selection)
	} else {
		for i := range scratch {
			scratch[i] = 0xff
		}
		if tail := v.Rows % 8; tail != 0 {
			scratch[n-1] = 1<<tail - 1
		}
	}
	v.Selection = scratch
	return scratch
}

// appendOutput appends a decided batch. Its keys, times and versions have done their work.
func appendOutput(v *batch.View, dst []byte) []byte {
	switch v.Selected {
	case v.Rows:
		v.Selection = nil
	case 0:
		v.Columns, v.ColumnsSize, v.Compression = nil, 0, eventv1.Compression_COMPRESSION_UNSPECIFIED
	}
	v.Keys, v.Times, v.Versions = nil, nil, nil
	return v.Append(dst)
}
