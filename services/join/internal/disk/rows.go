package disk

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"

	"github.com/cockroachdb/pebble/v2"

	"sluice/services/join/internal/state"
)

// batchBytes is how much is written at once.
const batchBytes = 2 << 20

// Put adds rows.
func (d *DB) Put(rows []state.Row) error {
	b := d.db.NewBatch()
	defer func() { _ = b.Close() }() // it only gives memory back
	for i := range rows {
		r := &rows[i]
		d.key = rowKey(d.key[:0], r.Side, r.Key, r.TimeMS, r.Seq)
		d.val = appendRow(d.val[:0], r)
		err := b.Set(d.key, d.val, nil)
		d.key = timeKey(d.key[:0], r.Side, r.Key, r.TimeMS, r.Seq)
		err = errors.Join(err, b.Set(d.key, nil, nil))
		d.key = bornKey(d.key[:0], r.Born, r.Side, r.Key, r.TimeMS, r.Seq)
		if err = errors.Join(err, b.Set(d.key, nil, nil)); err != nil {
			return fmt.Errorf("put rows: %w", err)
		}
		if b.Len() >= batchBytes {
			if err := b.Commit(pebble.NoSync); err != nil {
				return fmt.Errorf("put rows: %w", err)
			}
			_ = b.Close()
			b = d.db.NewBatch()
		}
	}
	if err := b.Commit(pebble.NoSync); err != nil {
		return fmt.Errorf("put rows: %w", err)
	}
	return nil
}

// Key walks the rows of a side and key.
func (d *DB) Key(side state.Side, key state.Key, from, to int64, each func(*state.Row) error) error {
	return d.withIter(rowKey(nil, side, key, from, 0), rowKey(nil, side, key, to, math.MaxUint64), func(it *pebble.Iterator, low []byte) error {
		for ok := it.SeekPrefixGE(low); ok; ok = it.Next() {
			r, err := d.read(it)
			if err != nil {
				return err
			}
			if err := each(&r); err != nil {
				return err
			}
		}
		return nil
	})
}

// Latest is the last row of a side and key.
func (d *DB) Latest(side state.Side, key state.Key, to int64) (r state.Row, found bool, err error) {
	low := rowKey(nil, side, key, math.MinInt64, 0)
	err = d.withIter(low, rowKey(nil, side, key, to, math.MaxUint64), func(it *pebble.Iterator, low []byte) error {
		// The filters answer for most keys that are not there.
		if !it.SeekPrefixGE(low) || !it.Last() {
			return nil
		}
		found = true
		var err error
		r, err = d.read(it)
		r.Cells = append([]byte(nil), r.Cells...)
		return err
	})
	return r, found, err
}

// Find is the row of a side, key, time and number.
func (d *DB) Find(side state.Side, key state.Key, time int64, seq uint64) (r state.Row, found bool, err error) {
	err = d.load(side, key, time, seq, func(x *state.Row) error {
		r, found = *x, true
		r.Cells = append([]byte(nil), x.Cells...)
		return nil
	})
	return r, found, err
}

// Times walks the rows of a side.
func (d *DB) Times(side state.Side, from, to int64, each func(*state.Row) error) error {
	low := timeKey(nil, side, state.Key{}, from, 0)
	high := timeKey(nil, side, state.Key{math.MaxUint64, math.MaxUint64}, to, math.MaxUint64)
	return d.withIter(low, high, func(it *pebble.Iterator, _ []byte) error {
		for ok := it.First(); ok; ok = it.Next() {
			k := it.Key()
			if err := d.load(side, keyOf(k[18:]), timeOf(k[2:]), binary.BigEndian.Uint64(k[10:]), each); err != nil {
				return err
			}
		}
		return nil
	})
}

// Born walks the rows born in a bucket.
func (d *DB) Born(bucket uint32, each func(*state.Row) error) error {
	low := bornKey(nil, bucket, 0, state.Key{}, math.MinInt64, 0)
	high := bornKey(nil, bucket, math.MaxUint8, state.Key{}, 0, 0)
	return d.withIter(low, high, func(it *pebble.Iterator, _ []byte) error {
		for ok := it.First(); ok; ok = it.Next() {
			k := it.Key()
			if err := d.load(state.Side(k[5]), keyOf(k[6:]), timeOf(k[22:]), binary.BigEndian.Uint64(k[30:]), each); err != nil {
				return err
			}
		}
		return nil
	})
}

// load hands the row of an index entry on. An entry whose row was removed during the walk is passed over.
func (d *DB) load(side state.Side, key state.Key, time int64, seq uint64, each func(*state.Row) error) error {
	r := state.Row{Side: side, Key: key, TimeMS: time, Seq: seq}
	d.key = rowKey(d.key[:0], side, key, time, seq)
	value, closer, err := d.db.Get(d.key)
	if errors.Is(err, pebble.ErrNotFound) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("read a row: %w", err)
	}
	err = rowOf(&r, value)
	if err == nil {
		err = each(&r)
	}
	return errors.Join(err, closer.Close())
}

// withIter hands an iterator over the keys from low to high to walk.
func (d *DB) withIter(low, high []byte, walk func(it *pebble.Iterator, low []byte) error) error {
	it, err := d.db.NewIter(&pebble.IterOptions{LowerBound: low, UpperBound: append(high, 0)})
	if err != nil {
		return fmt.Errorf("read rows: %w", err)
	}
	err = walk(it, low)
	if err == nil {
		err = it.Error()
	}
	return errors.Join(err, it.Close())
}

func (d *DB) read(it *pebble.Iterator) (state.Row, error) {
	k := it.Key()
	r := state.Row{
		Side: state.Side(k[1]), Key: keyOf(k[2:]), TimeMS: timeOf(k[prefixLen:]), Seq: binary.BigEndian.Uint64(k[prefixLen+8:]),
	}
	value, err := it.ValueAndErr()
	if err != nil {
		return r, fmt.Errorf("read a row: %w", err)
	}
	return r, rowOf(&r, value)
}

// Replace writes a row anew.
func (d *DB) Replace(r *state.Row, born uint32) error {
	d.key = rowKey(d.key[:0], r.Side, r.Key, r.TimeMS, r.Seq)
	d.val = appendRow(d.val[:0], r)
	err := d.db.Set(d.key, d.val, pebble.NoSync)
	if r.Born != born && err == nil {
		d.key = bornKey(d.key[:0], born, r.Side, r.Key, r.TimeMS, r.Seq)
		err = d.db.Delete(d.key, pebble.NoSync)
		d.key = bornKey(d.key[:0], r.Born, r.Side, r.Key, r.TimeMS, r.Seq)
		err = errors.Join(err, d.db.Set(d.key, nil, pebble.NoSync))
	}
	if err != nil {
		return fmt.Errorf("change a row: %w", err)
	}
	return nil
}

// Remove removes a row.
func (d *DB) Remove(r *state.Row) error {
	d.key = rowKey(d.key[:0], r.Side, r.Key, r.TimeMS, r.Seq)
	err := d.db.Delete(d.key, pebble.NoSync)
	d.key = timeKey(d.key[:0], r.Side, r.Key, r.TimeMS, r.Seq)
	err = errors.Join(err, d.db.Delete(d.key, pebble.NoSync))
	d.key = bornKey(d.key[:0], r.Born, r.Side, r.Key, r.TimeMS, r.Seq)
	if err = errors.Join(err, d.db.Delete(d.key, pebble.NoSync)); err != nil {
		return fmt.Errorf("remove a row: %w", err)
	}
	return nil
}
