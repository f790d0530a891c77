package native

import (
	"encoding/binary"
	"errors"
	"fmt"
)

func (n *lowCardinality) decodeState(d *decoder) error {
	version, err := d.uint64()
	if err == nil && version != dictionaryVersion {
		err = fmt.Errorf("dictionaries of version %d, which is not known", version)
	}
	return err
}

// What the numbers of rows say of themselves, beside their width in the lowest byte.
const (
	needsGlobalDictionary = 1 << 8
	hasAdditionalKeys     = 1 << 9
)

// MaxDictionaryBytes is how much the values of a LowCardinality column may have in one block of a server: a byte for each row, and one
// long key, would be far more than was sent.
const MaxDictionaryBytes = 256 << 20

// decode puts the values in the place of their numbers.
func (n *lowCardinality) decode(d *decoder, rows int) error {
	if rows == 0 {
		return nil
	}
	flags, err := d.uint64()
	if err != nil {
		return err
	}
	widths := flags & 0xff // as a power of two
	if flags&needsGlobalDictionary != 0 || flags&hasAdditionalKeys == 0 || widths > 3 {
		return fmt.Errorf("a dictionary of the form %#x, which is not known", flags)
	}
	width := 1 << widths
	values := n.node
	if n.mask != nil {
		values = n.mask.inner
	}
	keys, err := n.decodeKeys(d, values)
	if err != nil {
		return err
	}
	size, err := d.uint64()
	if err != nil {
		return err
	}
	if size != uint64(rows) {
		return fmt.Errorf("%d numbers of a dictionary for %d rows", size, rows)
	}
	if n.out, err = d.append(n.out[:0], rows*width); err != nil {
		return err
	}
	if err := n.checkNumbers(keys, width); err != nil {
		return err
	}
	for row := range rows {
		k := numberAt(n.out, row, width)
		if n.mask != nil {
			null := byte(0)
			if k == 0 { // NULL, whatever key is there
				null = 1
			}
			n.mask.mask = append(n.mask.mask, null)
		}
		appendKey(values, keys[k])
	}
	return nil
}

// checkNumbers makes sure, before a value is put in its place, that all are there and that together they are not too much.
func (n *lowCardinality) checkNumbers(keys [][]byte, width int) error {
	left := MaxDictionaryBytes
	for row := range len(n.out) / width {
		k := numberAt(n.out, row, width)
		if k >= uint64(len(keys)) {
			return errors.New("a number is not in its dictionary")
		}
		if left -= len(keys[k]); left < 0 {
			return fmt.Errorf("the values of a dictionary have more than %d bytes", MaxDictionaryBytes)
		}
	}
	return nil
}

func numberAt(numbers []byte, row, width int) uint64 {
	var number [8]byte
	copy(number[:], numbers[row*width:(row+1)*width])
	return binary.LittleEndian.Uint64(number[:])
}

// decodeKeys reads the keys: the bytes of each in Native.
func (n *lowCardinality) decodeKeys(d *decoder, values node) ([][]byte, error) {
	size, err := d.uint64()
	if err != nil {
		return nil, err
	}
	total, err := count(size, 32)
	if err != nil {
		return nil, err
	}
	var dict node
	switch v := values.(type) {
	case *fixed:
		dict = &fixed{width: v.width}
	default:
		dict = &text{}
	}
	if err := dict.decode(d, total); err != nil {
		return nil, err
	}
	keys := make([][]byte, total)
	pos := 0
	for i := range keys {
		begin := pos
		_, pos = keyAt(dict, pos)
		switch v := dict.(type) {
		case *fixed:
			keys[i] = v.buf[begin:pos]
		case *text:
			keys[i] = v.buf[begin:pos]
		}
	}
	return keys, nil
}

func appendKey(values node, key []byte) {
	switch v := values.(type) {
	case *fixed:
		v.buf = append(v.buf, key...)
	case *text:
		v.buf = append(v.buf, key...)
		v.n++
	}
}
