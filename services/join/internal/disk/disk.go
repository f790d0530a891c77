// Package disk keeps the rows of a join lane that do not fit into memory in two Pebble stores: the rows in the order of their times, in which they
// come and go, so that hardly one is written twice; and the keys, which lie anywhere but are short. A filter in memory knows most keys that are not there.
//
// Guaranteed: rows come back as they were put, in the order of (time, seq); memory is bounded whatever the number of rows, but for two bytes or so of the
// filter for each. It is a cache of what the lane's checkpoint and log hold: there is no write-ahead log, nothing is ever synced, and Close
// removes the directory.
//
// Not guaranteed: anything after an error.
package disk

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"

	"sluice/services/join/internal/state"
)

// The memory beside the rows in memory: two tables of what is new for each store, and the blocks read last.
const (
	memTable  = 4 << 20
	blockRead = 32 << 20
	// An index of one level for each table: a second one would be read for every key that is looked for.
	indexBlock = 256 << 10
)

// DB is a state.Disk. It is not for concurrent use.
type DB struct {
	rows, keys *pebble.DB
	dir        string
	filter     filter
	count      int    // rows
	key        []byte // scratch
	val        []byte // scratch
}

var _ state.Disk = (*DB)(nil)

// Open makes an empty store in a new directory below dir.
func Open(dir string) (*DB, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("make %s: %w", dir, err)
	}
	own, err := os.MkdirTemp(dir, "lane-")
	if err != nil {
		return nil, fmt.Errorf("make a directory in %s: %w", dir, err)
	}
	d, err := open(own, vfs.Default)
	if err != nil {
		return nil, errors.Join(err, os.RemoveAll(own))
	}
	return d, nil
}

func open(dir string, fs vfs.FS) (*DB, error) {
	cache := pebble.NewCache(blockRead)
	defer cache.Unref()
	part := func(name string) (*pebble.DB, error) {
		options := &pebble.Options{
			FS: fs, Cache: cache, DisableWAL: true, MemTableSize: memTable, MaxOpenFiles: 256, L0CompactionThreshold: 4, Logger: quiet{},
		}
		for i := range options.Levels {
			options.Levels[i].IndexBlockSize = indexBlock
		}
		db, err := pebble.Open(filepath.Join(dir, name), options)
		if err != nil {
			return nil, fmt.Errorf("open a store in %s: %w", dir, err)
		}
		return db, nil
	}
	rows, err := part("rows")
	if err != nil {
		return nil, err
	}
	keys, err := part("keys")
	if err != nil {
		return nil, errors.Join(err, rows.Close())
	}
	return &DB{rows: rows, keys: keys, dir: dir}, nil
}

// quiet drops what Pebble tells about its work; what fails it returns.
type quiet struct{}

func (quiet) Infof(string, ...any)  {}
func (quiet) Errorf(string, ...any) {}
func (quiet) Fatalf(format string, args ...any) {
	panic(fmt.Sprintf("the store of waiting rows: "+format, args...))
}

// Bytes is the memory that grows with the number of rows.
func (d *DB) Bytes() int { return d.filter.bytes() }

// Close removes everything.
func (d *DB) Close() error {
	return errors.Join(d.rows.Close(), d.keys.Close(), os.RemoveAll(d.dir))
}

// Keys of the two stores. Numbers are big endian so that their order is that of the bytes; times have their sign bit flipped.
//
//	rows: time seq side → key, and the rest of the row
//	keys: side key time seq → nothing
const (
	rowKeyLen = 8 + 8 + 1
	keyKeyLen = 1 + 16 + 8 + 8
)

func appendTime(b []byte, ms int64) []byte { return binary.BigEndian.AppendUint64(b, uint64(ms)^1<<63) }
func timeOf(b []byte) int64                { return int64(binary.BigEndian.Uint64(b) ^ 1<<63) }

func rowKey(b []byte, side state.Side, time int64, seq uint64) []byte {
	return append(binary.BigEndian.AppendUint64(appendTime(b, time), seq), byte(side))
}

func keyKey(b []byte, side state.Side, key state.Key, time int64, seq uint64) []byte {
	b = binary.BigEndian.AppendUint64(append(b, byte(side)), key[1])
	b = binary.BigEndian.AppendUint64(b, key[0])
	return binary.BigEndian.AppendUint64(appendTime(b, time), seq)
}

// headLen is what of a row's value comes before the cells.
const headLen = 16 + 1 + 4 + 8 + 8 + 4

func appendRow(b []byte, r *state.Row) []byte {
	b = binary.BigEndian.AppendUint64(binary.BigEndian.AppendUint64(b, r.Key[0]), r.Key[1])
	matched := byte(0)
	if r.Matched {
		matched = 1
	}
	b = binary.BigEndian.AppendUint32(append(b, matched), uint32(r.Partition))
	b = binary.BigEndian.AppendUint64(b, uint64(r.Offset))
	b = binary.BigEndian.AppendUint64(b, r.Revision)
	return append(binary.BigEndian.AppendUint32(b, r.Born), r.Cells...)
}

var errDamaged = errors.New("the store of waiting rows holds a damaged row")

// rowOf reads a row.
func rowOf(key, value []byte) (r state.Row, err error) {
	if len(key) != rowKeyLen || len(value) < headLen {
		return r, errDamaged
	}
	r.TimeMS, r.Seq, r.Side = timeOf(key), binary.BigEndian.Uint64(key[8:]), state.Side(key[16])
	r.Key = state.Key{binary.BigEndian.Uint64(value), binary.BigEndian.Uint64(value[8:])}
	value = value[16:]
	r.Matched = value[0] == 1
	r.Partition = int32(binary.BigEndian.Uint32(value[1:]))
	r.Offset = int64(binary.BigEndian.Uint64(value[5:]))
	r.Revision = binary.BigEndian.Uint64(value[13:])
	r.Born = binary.BigEndian.Uint32(value[21:])
	r.Cells = value[25:]
	return r, nil
}

// rowOfKey is where the row of an entry of keys is.
func rowOfKey(b, entry []byte) []byte {
	b = append(b, entry[17:keyKeyLen]...)
	return append(b, entry[0])
}

func sideKeyOf(entry []byte) (state.Side, state.Key) {
	return state.Side(entry[0]), state.Key{binary.BigEndian.Uint64(entry[9:]), binary.BigEndian.Uint64(entry[1:])}
}
