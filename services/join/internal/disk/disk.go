// Package disk keeps the rows of a join lane that do not fit into memory in a Pebble store.
//
// Guaranteed: rows come back as they were put, in the order of (time, seq); memory is bounded whatever the number of rows. It is a
// cache of what the lane's checkpoint and log hold: there is no write-ahead log, nothing is ever synced, and Close
// removes the directory.
//
// Not guaranteed: anything after an error.
package disk

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"os"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/bloom"
	"github.com/cockroachdb/pebble/v2/vfs"

	"sluice/services/join/internal/state"
)

// The memory of a store beside the rows in memory: two tables of new rows and the blocks read last.
const (
	memTable  = 8 << 20
	blockRead = 32 << 20
	// An index of one level for each table: a second one would be read for every key that is looked for.
	indexBlock = 256 << 10
)

// DB is a state.Disk. It is not for concurrent use.
type DB struct {
	db  *pebble.DB
	dir string
	key []byte // scratch
	val []byte // scratch
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
	options := &pebble.Options{
		FS: fs, Cache: cache, Comparer: comparer(), DisableWAL: true, MemTableSize: memTable, MaxOpenFiles: 256,
		L0CompactionThreshold: 4, Logger: quiet{},
	}
	for i := range options.Levels {
		options.Levels[i].FilterPolicy, options.Levels[i].IndexBlockSize = bloom.FilterPolicy(10), indexBlock
	}
	db, err := pebble.Open(dir, options)
	if err != nil {
		return nil, fmt.Errorf("open a store in %s: %w", dir, err)
	}
	return &DB{db: db, dir: dir}, nil
}

// quiet drops what Pebble tells about its work; what fails it returns.
type quiet struct{}

func (quiet) Infof(string, ...any)  {}
func (quiet) Errorf(string, ...any) {}
func (quiet) Fatalf(format string, args ...any) {
	panic(fmt.Sprintf("the store of waiting rows: "+format, args...))
}

// Close removes everything.
func (d *DB) Close() error {
	err := d.db.Close()
	return errors.Join(err, os.RemoveAll(d.dir))
}

// Keys. Numbers are big endian so that their order is that of the bytes; times have their sign bit flipped.
//
//	'r' side key time seq → the row
//	't' side time seq key → nothing
//	'b' born side key time seq → nothing
const (
	byKey  = 'r'
	byTime = 't'
	byBorn = 'b'

	prefixLen = 1 + 1 + 16
	rowKeyLen = prefixLen + 16
)

// comparer orders by bytes. The prefix of a row's key is its side and join key: what the filters know.
func comparer() *pebble.Comparer {
	c := *pebble.DefaultComparer
	c.Name = "sluice.join.v1"
	c.Split = func(key []byte) int {
		if len(key) >= prefixLen && key[0] == byKey {
			return prefixLen
		}
		return len(key)
	}
	c.Compare = bytes.Compare
	c.ComparePointSuffixes, c.CompareRangeSuffixes = bytes.Compare, bytes.Compare
	return &c
}

func appendTime(b []byte, ms int64) []byte { return binary.BigEndian.AppendUint64(b, uint64(ms)^1<<63) }
func timeOf(b []byte) int64                { return int64(binary.BigEndian.Uint64(b) ^ 1<<63) }

func appendKey(b []byte, key state.Key) []byte {
	return binary.BigEndian.AppendUint64(binary.BigEndian.AppendUint64(b, key[1]), key[0])
}

func keyOf(b []byte) state.Key {
	return state.Key{binary.BigEndian.Uint64(b[8:]), binary.BigEndian.Uint64(b)}
}

func rowKey(b []byte, side state.Side, key state.Key, time int64, seq uint64) []byte {
	b = appendTime(appendKey(append(b, byKey, byte(side)), key), time)
	return binary.BigEndian.AppendUint64(b, seq)
}

func timeKey(b []byte, side state.Side, key state.Key, time int64, seq uint64) []byte {
	b = binary.BigEndian.AppendUint64(appendTime(append(b, byTime, byte(side)), time), seq)
	return appendKey(b, key)
}

func bornKey(b []byte, born uint32, side state.Side, key state.Key, time int64, seq uint64) []byte {
	b = append(binary.BigEndian.AppendUint32(append(b, byBorn), born), byte(side))
	return binary.BigEndian.AppendUint64(appendTime(appendKey(b, key), time), seq)
}

// headLen is what of a row's value comes before the cells.
const headLen = 1 + 4 + 8 + 8 + 4

func appendRow(b []byte, r *state.Row) []byte {
	matched := byte(0)
	if r.Matched {
		matched = 1
	}
	b = binary.BigEndian.AppendUint32(append(b, matched), uint32(r.Partition))
	b = binary.BigEndian.AppendUint64(b, uint64(r.Offset))
	b = binary.BigEndian.AppendUint64(b, r.Revision)
	return append(binary.BigEndian.AppendUint32(b, r.Born), r.Cells...)
}

// rowOf reads a row whose key has been read.
func rowOf(r *state.Row, value []byte) error {
	if len(value) < headLen {
		return errors.New("the store of waiting rows holds a damaged row")
	}
	r.Matched = value[0] == 1
	r.Partition = int32(binary.BigEndian.Uint32(value[1:]))
	r.Offset = int64(binary.BigEndian.Uint64(value[5:]))
	r.Revision = binary.BigEndian.Uint64(value[13:])
	r.Born = binary.BigEndian.Uint32(value[21:])
	r.Cells = value[headLen:]
	return nil
}
