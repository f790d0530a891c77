package state

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"

	"github.com/klauspost/compress/s2"
)

// What is new is written down in frames: four bytes with the length of the rest, four with the bucket of log time, and the records,
// compressed. A record begins with a byte: twice its kind, plus the side.
const (
	recordRow = iota
	recordMatchedRow
	deltaMatched // the row has met another
	deltaGone    // the row is no more
)

const (
	frameHead = 8
	// frameRaw is the size from which a frame is closed, maxFrame what a reader takes.
	frameRaw = 128 << 10
	maxFrame = 1 << 30
)

// Frame is some of what is new.
type Frame struct {
	Data    []byte
	Entries int
	Born    uint32 // its bucket of log time
}

// bucket is what of a bucket of log time is of use still.
type bucket struct {
	rows    int   // that live
	written int64 // bytes of its frames
}

// log writes down what is new.
type log struct {
	born    uint32
	raw     []byte
	entries int
	frames  []Frame
	buckets map[uint32]*bucket
	live    int64  // bytes that the rows which live would take when written
	lastSeq uint64 // largest number of a row restored
}

func newLog() log { return log{buckets: map[uint32]*bucket{}} }

// headSize is about what a record takes beside the cells.
const headSize = 44

func (l *log) bucket(born uint32) *bucket {
	b := l.buckets[born]
	if b == nil {
		b = &bucket{}
		l.buckets[born] = b
	}
	return b
}

func (l *log) lives(born uint32, cells int) {
	l.bucket(born).rows++
	l.live += int64(headSize + cells)
}

func (l *log) dies(born uint32, cells int) {
	b := l.bucket(born)
	b.rows--
	l.live -= int64(headSize + cells)
	if b.rows == 0 && b.written == 0 {
		delete(l.buckets, born)
	}
}

func (l *log) head(kind byte, r *Row) {
	l.raw = append(l.raw, kind<<1|byte(r.Side))
	l.raw = binary.LittleEndian.AppendUint64(l.raw, r.Key[0])
	l.raw = binary.LittleEndian.AppendUint64(l.raw, r.Key[1])
	l.raw = binary.LittleEndian.AppendUint64(l.raw, uint64(r.TimeMS))
	l.raw = binary.AppendUvarint(l.raw, r.Seq)
}

func (l *log) row(r *Row) {
	// A frame is a row more than frameRaw at most, and a large row has one of its own: it has fitted into a message, and must again.
	if len(l.raw)+headSize+len(r.Cells) > frameRaw {
		l.close()
	}
	kind := byte(recordRow)
	if r.Matched {
		kind = recordMatchedRow
	}
	l.head(kind, r)
	l.raw = binary.AppendVarint(l.raw, int64(r.Partition))
	l.raw = binary.AppendVarint(l.raw, r.Offset)
	l.raw = binary.AppendUvarint(l.raw, r.Revision)
	l.raw = binary.AppendUvarint(l.raw, uint64(len(r.Cells)))
	l.raw = append(l.raw, r.Cells...)
	l.added()
}

func (l *log) delta(kind byte, r *Row) {
	l.head(kind, r)
	l.added()
}

func (l *log) added() {
	if l.entries++; len(l.raw) >= frameRaw {
		l.close()
	}
}

// close ends the frame.
func (l *log) close() {
	if l.entries == 0 {
		return
	}
	data := make([]byte, frameHead+s2.MaxEncodedLen(len(l.raw)))
	data = data[:frameHead+len(s2.Encode(data[frameHead:], l.raw))]
	data = append(make([]byte, 0, len(data)), data...) // it waits for the checkpoint: no slack
	binary.LittleEndian.PutUint32(data, uint32(len(data)-4))
	binary.LittleEndian.PutUint32(data[4:], l.born)
	l.frames = append(l.frames, Frame{Data: data, Entries: l.entries, Born: l.born})
	l.bucket(l.born).written += int64(len(l.raw))
	l.raw, l.entries = l.raw[:0], 0
}

// Buckets says how wide the buckets of log time are, and that from now on only every so manieth is used: the second may change at any
// time, the first gives the numbers in what was written their meaning.
func (s *Store) Buckets(bornMS int64, every uint32) {
	s.options.BornMS, s.every = max(bornMS, 1), max(every, 1)
}

// SetTime says what time the log has come to, milliseconds since 1970. It never goes back.
func (s *Store) SetTime(ms int64) {
	born := uint32(min(max(ms, 0)/s.options.BornMS, math.MaxUint32))
	born -= born % s.every
	if born > s.born {
		s.log.close()
		s.born, s.log.born = born, born
	}
}

// Time is what time the log has come to, to the bucket.
func (s *Store) Time() int64 { return int64(s.born) * s.options.BornMS }

// Take returns what is new since the last call, in order.
func (s *Store) Take() []Frame {
	s.log.close()
	frames := s.log.frames
	s.log.frames = nil
	return frames
}

// Oldest is the oldest bucket of log time that a row which lives was written in, or the present one. Frames of earlier ones are of no
// more use, and are forgotten here.
func (s *Store) Oldest() uint32 {
	oldest := s.born
	for born, b := range s.log.buckets {
		if b.rows > 0 {
			oldest = min(oldest, born)
		}
	}
	for born := range s.log.buckets {
		if born < oldest {
			delete(s.log.buckets, born)
		}
	}
	return oldest
}

// garbage is what may be kept for nothing before anything is done about it.
const garbage = 32 << 20

// Renew writes rows of the oldest bucket anew, as if they had just come, when what is kept is more than twice what
// lives: a few rows that live long must not keep all that was written since. It writes about limit bytes at most.
func (s *Store) Renew(limit int) error {
	for limit > 0 {
		oldest := s.Oldest()
		var written int64
		for _, b := range s.log.buckets {
			written += b.written
		}
		if oldest == s.born || written < 2*s.log.live+garbage {
			return nil
		}
		done, err := s.renew(oldest, limit)
		if err != nil {
			return err
		}
		limit -= done
	}
	return nil
}

// errEnough ends a walk.
var errEnough = errors.New("enough")

func (s *Store) renew(born uint32, limit int) (done int, err error) {
	renew := func(r *Row) {
		s.log.dies(born, len(r.Cells))
		r.Born = s.born
		s.log.row(r)
		s.log.lives(s.born, len(r.Cells))
		done += headSize + len(r.Cells)
	}
	var r Row
	for side := range s.lines {
		for _, l := range s.lines[side].leaves {
			for _, id := range l.ids {
				x := s.slots.get(id)
				if x.dead || x.born != born {
					continue
				}
				s.row(&r, id)
				renew(&r)
				x.born = s.born
				if done >= limit {
					return done, nil
				}
			}
		}
	}
	if s.OnDisk() == 0 {
		return done, nil
	}
	// Rows that were written in the oldest bucket mostly have the oldest times: they are soon found.
	for side := range s.lines {
		err = s.disk.Times(Side(side), math.MinInt64, math.MaxInt64, func(r *Row) error {
			if done >= limit || s.log.bucket(born).rows == 0 {
				return errEnough
			}
			if r.Born != born {
				return nil
			}
			renew(r)
			return s.disk.Replace(r)
		})
		if err != nil && !errors.Is(err, errEnough) {
			return done, err
		}
	}
	return done, nil
}

// Restore reads frames that Take has returned, in the order in which it has. keep says of each row whether it is to be had; a row
// that came before, written anew since, is replaced. Nothing of it counts as new.
func (s *Store) Restore(data []byte, keep func(*Row) (bool, error)) error {
	for len(data) > 0 {
		if len(data) < frameHead {
			return errors.New("state: a frame is cut off")
		}
		size := int(binary.LittleEndian.Uint32(data))
		if size < frameHead-4 || size > len(data)-4 {
			return errors.New("state: a frame is cut off")
		}
		born := binary.LittleEndian.Uint32(data[4:])
		if n, err := s2.DecodedLen(data[frameHead : 4+size]); err != nil || n > maxFrame {
			return fmt.Errorf("state: a frame of %d bytes: %w", n, errors.Join(err))
		}
		raw, err := s2.Decode(nil, data[frameHead:4+size])
		if err != nil {
			return fmt.Errorf("state: a frame: %w", err)
		}
		if born > s.born {
			s.born, s.log.born = born, born
		}
		s.log.bucket(born).written += int64(len(raw))
		if err := s.restore(raw, born, keep); err != nil {
			return err
		}
		data = data[4+size:]
	}
	return nil
}

func (s *Store) restore(raw []byte, born uint32, keep func(*Row) (bool, error)) error {
	d := decoder{rest: raw}
	for len(d.rest) > 0 {
		kind := d.byte()
		r := Row{Side: Side(kind & 1), Matched: kind>>1 == recordMatchedRow, Key: Key{d.uint64(), d.uint64()}, TimeMS: int64(d.uint64()), Seq: d.uvarint(), Born: born}
		kind >>= 1
		if kind <= recordMatchedRow {
			r.Partition, r.Offset, r.Revision = int32(d.varint()), d.varint(), d.uvarint()
			r.Cells = d.bytes()
		}
		if d.bad || kind > deltaGone {
			return errors.New("state: a record is damaged")
		}
		if err := s.replay(kind, &r, keep); err != nil {
			return err
		}
		if err := s.Balance(); err != nil {
			return err
		}
	}
	return nil
}

// replay takes one record in.
func (s *Store) replay(kind byte, r *Row, keep func(*Row) (bool, error)) error {
	var old *Row
	// Rows come in the order of their numbers, but for those written anew: most need not be looked for.
	if kind > recordMatchedRow || r.Seq <= s.log.lastSeq {
		found, ok, err := s.find(r.Side, r.Key, r.TimeMS, r.Seq)
		if err != nil {
			return err
		}
		if ok {
			old = &found
		}
	}
	switch kind {
	case deltaMatched:
		if old == nil || old.Matched {
			return nil
		}
		old.Matched = true
		if old.place == 0 {
			return s.disk.Replace(old)
		}
		s.slots.get(old.place - 1).matched = true
		return nil
	case deltaGone:
		if old == nil {
			return nil
		}
		return s.Remove(old, false)
	}
	s.log.lastSeq = max(s.log.lastSeq, r.Seq)
	if old != nil {
		if err := s.Remove(old, false); err != nil {
			return err
		}
	}
	ok, err := keep(r)
	if err != nil || !ok {
		return err
	}
	s.insert(r)
	return nil
}

// decoder reads a record; bad once it was too short.
type decoder struct {
	rest []byte
	bad  bool
}

func (d *decoder) take(n int) []byte {
	if n < 0 || n > len(d.rest) {
		d.bad, d.rest = true, nil
		return make([]byte, min(max(n, 0), 8))
	}
	b := d.rest[:n:n]
	d.rest = d.rest[n:]
	return b
}

func (d *decoder) byte() byte     { return d.take(1)[0] }
func (d *decoder) uint64() uint64 { return binary.LittleEndian.Uint64(d.take(8)) }

func (d *decoder) uvarint() uint64 {
	v, n := binary.Uvarint(d.rest)
	if n <= 0 {
		n = -1
	}
	d.take(n)
	return v
}

func (d *decoder) varint() int64 {
	v, n := binary.Varint(d.rest)
	if n <= 0 {
		n = -1
	}
	d.take(n)
	return v
}

func (d *decoder) bytes() []byte {
	n := d.uvarint()
	if n > uint64(len(d.rest)) {
		d.bad, d.rest = true, nil
		return nil
	}
	return d.take(int(n))
}
