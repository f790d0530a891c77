package dedup

import (
	eventv1 "sluice/gen/sluice/event/v1"
	"sluice/libs/batch"
)

// appendOutput appends a decided batch. Its keys, times and versions have done their work.
func appendOutput(v *batch.View, dst []byte) []byte {
	switch v.Selected {
	case 0: // also when there are no rows
		v.Columns, v.ColumnsSize, v.Compression = nil, 0, eventv1.Compression_COMPRESSION_UNSPECIFIED
	case v.Rows:
		v.Selection = nil
	}
	v.Keys, v.Times, v.Versions = nil, nil, nil
	return v.Append(dst)
}
