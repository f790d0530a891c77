package clickhouse

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"time"

	"github.com/ClickHouse/ch-go/compress"
)

const (
	// frameSize is how much of a block is compressed at once: small against a block, so that the memory
	// for compression does not grow with batch.bytes, and what clickhouse-client uses.
	frameSize = 1 << 20
	// writeTimeout bounds one write of at most a frame: a peer that takes nothing for so long is gone.
	writeTimeout = 30 * time.Second
)

// patient is a connection each of whose writes has a time limit of its own.
type patient struct{ net.Conn }

func (p patient) Write(b []byte) (int, error) {
	written := 0
	for len(b) > 0 {
		part := b[:min(len(b), frameSize)]
		if err := p.Conn.SetWriteDeadline(time.Now().Add(writeTimeout)); err != nil {
			return written, err
		}
		n, err := p.Conn.Write(part)
		written += n
		if err != nil {
			return written, err
		}
		b = b[n:]
	}
	return written, nil
}

// newWriter is the buffer of everything that is sent.
func newWriter(conn net.Conn) *bufio.Writer { return bufio.NewWriterSize(patient{conn}, 64<<10) }

// frames compresses what is written to it, frame by frame.
type frames struct {
	out        io.Writer
	compressor *compress.Writer
	buf        []byte // Invariant: len < frameSize between calls
}

func newFrames(out io.Writer) *frames {
	return &frames{
		out:        out,
		compressor: compress.NewWriter(compress.LevelZero, compress.LZ4),
		buf:        make([]byte, 0, frameSize),
	}
}

func (f *frames) Write(b []byte) (int, error) {
	total := len(b)
	for len(b) > 0 {
		if len(f.buf) == 0 && len(b) >= frameSize {
			if err := f.frame(b[:frameSize]); err != nil {
				return 0, err
			}
			b = b[frameSize:]
			continue
		}
		n := min(len(b), frameSize-len(f.buf))
		f.buf = append(f.buf, b[:n]...)
		b = b[n:]
		if len(f.buf) == frameSize {
			if err := f.Flush(); err != nil {
				return 0, err
			}
		}
	}
	return total, nil
}

// Flush ends the frame: a block ends where a frame ends.
func (f *frames) Flush() error {
	if len(f.buf) == 0 {
		return nil
	}
	err := f.frame(f.buf)
	f.buf = f.buf[:0]
	return err
}

func (f *frames) frame(b []byte) error {
	if err := f.compressor.Compress(b); err != nil {
		return fmt.Errorf("compress: %w", err)
	}
	_, err := f.out.Write(f.compressor.Data)
	return err
}
