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

// decode puts the values in the place of their numbers.
func (n *lowCardinality) decode(d *decoder, rows int) error {
	if rows == 0 {
		return nil
	}
	flags, err := d.uint64()
	if err != nil {
		return err
	}
	width := 1 << (flags & 0xff)
	if flags&needsGlobalDictionary != 0 || flags&hasAdditionalKeys == 0 || width > 8 {
		return fmt.Errorf("a dictionary of the form %#x, which is not known", flags)
	}
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
	var number [8]byte
	for row := range rows {
		copy(number[:], n.out[row*width:(row+1)*width])
		k := binary.LittleEndian.Uint64(number[:])
		if k >= uint64(len(keys)) {
			return errors.New("a number is not in its dictionary")
		}
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
