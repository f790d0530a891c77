package batch

import "encoding/binary"

// Selects tells whether a row is still in.
func (v *View) Selects(row int) bool {
	return len(v.Selection) == 0 || v.Selection[row/8]>>(row%8)&1 == 1
}

// Offset is the Kafka offset of a row; of what the join put out, the left one.
func (v *View) Offset(row int) int64 {
	if len(v.Offsets) == 0 {
		return v.Origin(row).LeftOffset
	}
	b := v.Offsets[row*OffsetBytes:]
	return v.FirstOffset + int64(uint32(b[0])|uint32(b[1])<<8|uint32(b[2])<<16|uint32(b[3])<<24)
}

// JoinKey is the fingerprint of a row's join key, low word first; zero = the row has none. Only where there are JoinKeys.
func (v *View) JoinKey(row int) [2]uint64 {
	b := v.JoinKeys[row*KeyBytes:]
	return [2]uint64{binary.LittleEndian.Uint64(b), binary.LittleEndian.Uint64(b[8:])}
}

// EventTime is the time of a row's event in milliseconds since 1970. Only where there are EventTimes.
func (v *View) EventTime(row int) int64 {
	return int64(binary.LittleEndian.Uint64(v.EventTimes[row*TimeBytes:]))
}
