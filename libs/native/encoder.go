package native

import (
	"encoding/binary"

	"github.com/ClickHouse/ch-go/proto"
)

// chainFrom is the size from which bytes are handed to the socket as they lie instead of copied.
const chainFrom = 2 << 10

// encoder writes to one of ch-go's two targets.
type encoder struct {
	buffer *proto.Buffer
	writer *proto.Writer
}

// bytes writes p. With a writer p must stay as it is until the writer is flushed.
func (e *encoder) bytes(p []byte) {
	switch {
	case len(p) == 0:
	case e.buffer != nil:
		e.buffer.Buf = append(e.buffer.Buf, p...)
	case len(p) >= chainFrom:
		e.writer.ChainWrite(p)
	default:
		e.writer.ChainBuffer(func(b *proto.Buffer) { b.Buf = append(b.Buf, p...) })
	}
}

func (e *encoder) uint64(v uint64) {
	var b [8]byte
	binary.LittleEndian.PutUint64(b[:], v)
	e.small(b[:])
}

func (e *encoder) uvarint(v int) {
	var b [binary.MaxVarintLen64]byte
	e.small(b[:binary.PutUvarint(b[:], uint64(v))])
}

func (e *encoder) string(s string) {
	e.uvarint(len(s))
	e.small([]byte(s))
}

// small copies p whatever the target.
func (e *encoder) small(p []byte) {
	if e.buffer != nil {
		e.buffer.Buf = append(e.buffer.Buf, p...)
		return
	}
	e.writer.ChainBuffer(func(b *proto.Buffer) { b.Buf = append(b.Buf, p...) })
}
