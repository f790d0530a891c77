package disk

import (
	"bytes"
	"errors"
	"fmt"
	"math"

	"github.com/cockroachdb/pebble/v2"

	"sluice/services/join/internal/state"
)

// batchBytes is how much is written at once.
const batchBytes = 1 << 20

// Put adds rows.
func (d *DB) Put(rows []state.Row) error {
	for len(rows) > 0 {
		n, err := d.put(rows)
		if err != nil {
			return fmt.Errorf("put rows: %w", err)
		}
		rows = rows[n:]
	}
	if d.filter.stale(d.count) {
		return d.know()
	}
	return nil
}

// put adds as many as are written at once.
func (d *DB) put(rows []state.Row) (n int, err error) {
	b, k := d.rows.NewBatch(), d.keys.NewBatch()
	defer func() { err = errors.Join(err, b.Close(), k.Close()) }()
	for n < len(rows) && b.Len() < batchBytes {
		r := &rows[n]
		d.key = rowKey(d.key[:0], r.Side, r.TimeMS, r.Seq)
		d.val = appendRow(d.val[:0], r)
		if err := b.Set(d.key, d.val, nil); err != nil {
			return 0, err
		}
		d.key = keyKey(d.key[:0], r.Side, r.Key, r.TimeMS, r.Seq)
		if err := k.Set(d.key, nil, nil); err != nil {
			return 0, err
		}
		d.filter.add(r.Side, r.Key)
		n++
	}
	d.count += n
	return n, errors.Join(b.Commit(pebble.NoSync), k.Commit(pebble.NoSync))
}

// know makes the filter anew.
func (d *DB) know() error {
	fresh := filter{generations: []*generation{newGeneration(max(leastKeys, d.count+d.count/2))}}
	err := walk(d.keys, nil, nil, func(it *pebble.Iterator) error {
		for ok := it.First(); ok; ok = it.Next() {
			e := it.Key()
			if len(e) != keyKeyLen {
				return errDamaged
			}
			side, key := sideKeyOf(e)
			fresh.add(side, key)
		}
		return nil
	})
	d.filter = fresh
	return err
}

// Key walks the rows of a side and key.
func (d *DB) Key(side state.Side, key state.Key, from, to int64, each func(*state.Row) error) error {
	if !d.filter.has(side, key) {
		return nil
	}
	return walk(d.keys, keyKey(nil, side, key, from, 0), keyKey(nil, side, key, to, math.MaxUint64), func(it *pebble.Iterator) error {
		if !it.First() {
			return nil
		}
		// The rows of a key are in the order of their times, as all rows are: the second iterator only goes forward, too.
		return walk(d.rows, rowOfKey(nil, it.Key()), rowKey(nil, math.MaxUint8, to, math.MaxUint64), func(rows *pebble.Iterator) error {
			for ok := true; ok; ok = it.Next() {
				d.key = rowOfKey(d.key[:0], it.Key())
				if !rows.SeekGE(d.key) || !bytes.Equal(rows.Key(), d.key) {
					return errors.Join(rows.Error(), errDamaged)
				}
				if err := give(rows, each); err != nil {
					return err
				}
			}
			return nil
		})
	})
}

// give hands on the row that an iterator stands at.
func give(it *pebble.Iterator, each func(*state.Row) error) error {
	value, err := it.ValueAndErr()
	if err != nil {
		return fmt.Errorf("read a row: %w", err)
	}
	r, err := rowOf(it.Key(), value)
	if err != nil {
		return err
	}
	return each(&r)
}

// Before is the last row of a side and key before a time and number.
func (d *DB) Before(side state.Side, key state.Key, time int64, seq uint64) (r state.Row, found bool, err error) {
	if !d.filter.has(side, key) {
		return r, false, nil
	}
	err = walk(d.keys, keyKey(nil, side, key, math.MinInt64, 0), nil, func(it *pebble.Iterator) error {
		// From behind: before it may be much that was removed.
		if !it.SeekLT(keyKey(nil, side, key, time, seq)) {
			return nil
		}
		_, entry := sideKeyOf(it.Key())
		r, found, err = d.get(side, entry, rowOfKey(nil, it.Key()))
		return err
	})
	return r, found, err
}

// Find is the row of a side, key, time and number.
func (d *DB) Find(side state.Side, key state.Key, time int64, seq uint64) (state.Row, bool, error) {
	if !d.filter.has(side, key) {
		return state.Row{}, false, nil
	}
	return d.get(side, key, rowKey(nil, side, time, seq))
}

// get returns a row with cells of its own.
func (d *DB) get(side state.Side, key state.Key, at []byte) (r state.Row, found bool, err error) {
	value, closer, err := d.rows.Get(at)
	if errors.Is(err, pebble.ErrNotFound) {
		return r, false, nil
	}
	if err != nil {
		return r, false, fmt.Errorf("read a row: %w", err)
	}
	r, err = rowOf(at, value)
	r.Cells = append([]byte(nil), r.Cells...)
	return r, err == nil && r.Side == side && r.Key == key, errors.Join(err, closer.Close())
}

// Times walks the rows of a side.
func (d *DB) Times(side state.Side, from, to int64, each func(*state.Row) error) error {
	return walk(d.rows, rowKey(nil, 0, from, 0), rowKey(nil, math.MaxUint8, to, math.MaxUint64), func(it *pebble.Iterator) error {
		for ok := it.First(); ok; ok = it.Next() {
			if k := it.Key(); len(k) != rowKeyLen || state.Side(k[16]) != side {
				continue
			}
			if err := give(it, each); err != nil {
				return err
			}
		}
		return nil
	})
}

// walk hands an iterator over the keys from low to high to each; nil: all.
func walk(db *pebble.DB, low, high []byte, each func(it *pebble.Iterator) error) error {
	if high != nil {
		high = append(high, 0)
	}
	it, err := db.NewIter(&pebble.IterOptions{LowerBound: low, UpperBound: high})
	if err != nil {
		return fmt.Errorf("read rows: %w", err)
	}
	err = each(it)
	if err == nil {
		err = it.Error()
	}
	return errors.Join(err, it.Close())
}

// Replace writes a row anew.
func (d *DB) Replace(r *state.Row) error {
	d.key = rowKey(d.key[:0], r.Side, r.TimeMS, r.Seq)
	d.val = appendRow(d.val[:0], r)
	if err := d.rows.Set(d.key, d.val, pebble.NoSync); err != nil {
		return fmt.Errorf("change a row: %w", err)
	}
	return nil
}

// Remove removes a row.
func (d *DB) Remove(r *state.Row) error {
	d.key = rowKey(d.key[:0], r.Side, r.TimeMS, r.Seq)
	err := d.rows.Delete(d.key, pebble.NoSync)
	// An entry of keys is set once: its removal goes as soon as it meets it.
	d.key = keyKey(d.key[:0], r.Side, r.Key, r.TimeMS, r.Seq)
	if err = errors.Join(err, d.keys.SingleDelete(d.key, pebble.NoSync)); err != nil {
		return fmt.Errorf("remove a row: %w", err)
	}
	d.count--
	return nil
}
