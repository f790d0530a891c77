package batch

import "encoding/binary"

// NoRight is the right partition of a row that has no right row; on the wire 0xffffffff.
const NoRight int32 = -1

// Origin names the records that a row of a join was made from.
type Origin struct {
	LeftPartition  int32
	LeftOffset     int64
	RightPartition int32 // NoRight when there is no right row
	RightOffset    int64
	EventMS        int64
}

// AppendOrigin appends the entry of one row to View.Origins.
func AppendOrigin(dst []byte, o Origin) []byte {
	dst = binary.LittleEndian.AppendUint32(dst, uint32(o.LeftPartition))
	dst = binary.LittleEndian.AppendUint32(dst, uint32(o.RightPartition))
	dst = binary.LittleEndian.AppendUint64(dst, uint64(o.LeftOffset))
	dst = binary.LittleEndian.AppendUint64(dst, uint64(o.RightOffset))
	return binary.LittleEndian.AppendUint64(dst, uint64(o.EventMS))
}

// Origin is where a row comes from. Only where there are Origins.
func (v *View) Origin(row int) Origin {
	b := v.Origins[row*OriginBytes:]
	return Origin{
		LeftPartition:  int32(binary.LittleEndian.Uint32(b)),
		RightPartition: int32(binary.LittleEndian.Uint32(b[4:])),
		LeftOffset:     int64(binary.LittleEndian.Uint64(b[8:])),
		RightOffset:    int64(binary.LittleEndian.Uint64(b[16:])),
		EventMS:        int64(binary.LittleEndian.Uint64(b[24:])),
	}
}
