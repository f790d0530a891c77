package kafka

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"log/slog"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// What a broker that was killed leaves behind in its directory, and kfake does not mend at its start:
//
//   - a last entry of groups.log or pids.log that was not written whole: kfake passes over it and appends behind it, where the next start finds nothing;
//   - a batch whose entry in the index was not written any more: the entries of later batches would be taken for those of the ones before;
//   - directories of partitions of which no topic is known.
//
// A batch that was not written whole kfake cuts off itself. What is cut off here was never acknowledged.

const (
	partitionsDir = "partitions"
	lostDir       = "lost"
	// An entry of a log: length of what follows the checksum, checksum, version, data. An entry of an index.
	logHeader  = 10
	indexEntry = 15
	// A batch: its first offset, then the length of the rest.
	batchHeader = 12
)

func mend(dir string, log *slog.Logger) error {
	if _, err := os.Stat(filepath.Join(dir, "meta.json")); errors.Is(err, fs.ErrNotExist) {
		return nil // nothing was ever kept here
	}
	for _, name := range []string{"groups.log", "pids.log"} {
		if err := mendLog(filepath.Join(dir, name), log); err != nil {
			return err
		}
	}
	topics, err := topicsIn(dir)
	if err != nil {
		return err
	}
	parts, err := os.ReadDir(filepath.Join(dir, partitionsDir))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("mend %s: %w", dir, err)
	}
	for _, part := range parts {
		path := filepath.Join(dir, partitionsDir, part.Name())
		if !knownPartition(part.Name(), topics) {
			if err := setAside(dir, part.Name(), log); err != nil {
				return err
			}
			continue
		}
		segments, err := filepath.Glob(filepath.Join(path, "*.dat"))
		if err != nil {
			return fmt.Errorf("mend %s: %w", path, err)
		}
		for _, segment := range segments {
			if err := mendSegment(segment, log); err != nil {
				return err
			}
		}
	}
	return nil
}

// topicsIn is the number of partitions of each topic that is written down.
func topicsIn(dir string) (map[string]int, error) {
	path := filepath.Join(dir, "topics.json")
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	var known struct {
		Topics []struct {
			Name       string `json:"name"`
			Partitions int    `json:"partitions"`
		} `json:"topics"`
	}
	if err == nil {
		err = json.Unmarshal(data, &known)
	}
	if err != nil {
		return nil, fmt.Errorf("mend %s: %w", path, err)
	}
	topics := map[string]int{}
	for _, t := range known.Topics {
		topics[t.Name] = t.Partitions
	}
	return topics, nil
}

func knownPartition(name string, topics map[string]int) bool {
	at := strings.LastIndexByte(name, '-')
	if at < 0 {
		return false
	}
	topic, err := url.PathUnescape(name[:at])
	n, numberErr := strconv.Atoi(name[at+1:])
	return err == nil && numberErr == nil && n < topics[topic]
}

// setAside takes the records of a topic that is not known out of the way of one that is made by its name.
func setAside(dir, part string, log *slog.Logger) error {
	to := filepath.Join(dir, lostDir, fmt.Sprintf("%s.%d", part, time.Now().UnixNano()))
	err := os.MkdirAll(filepath.Dir(to), 0o750)
	if err == nil {
		err = os.Rename(filepath.Join(dir, partitionsDir, part), to)
	}
	if err != nil {
		return fmt.Errorf("set the records of %s aside: %w", part, err)
	}
	log.Warn("kafka broker: records of a topic that is not known, as the broker was killed before it was written down, were set aside", "partition", part, "in", to)
	return nil
}

// mendLog cuts off what is not a whole entry.
func mendLog(path string, log *slog.Logger) error {
	raw, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("mend %s: %w", path, err)
	}
	whole := 0
	for rest := raw; len(rest) >= logHeader; rest = raw[whole:] {
		length := int(binary.LittleEndian.Uint32(rest))
		if length < 2 || length > len(rest)-8 || crc32.Checksum(rest[8:8+length], crc32.MakeTable(crc32.Castagnoli)) != binary.LittleEndian.Uint32(rest[4:]) {
			break
		}
		whole += 8 + length
	}
	return cut(path, int64(whole), int64(len(raw)), log)
}

// mendSegment cuts off the last batch if its entry in the index is missing, and what is no whole entry of that.
func mendSegment(path string, log *slog.Logger) error {
	index := strings.TrimSuffix(path, ".dat") + ".idx"
	info, err := os.Stat(index)
	var size int64
	switch {
	case err == nil:
		size = info.Size()
	case !errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("mend %s: %w", index, err)
	}
	entries := size / indexEntry
	if err == nil {
		if err := cut(index, entries*indexEntry, size, log); err != nil {
			return err
		}
	}
	starts, end, err := batchesOf(path)
	if err != nil {
		return fmt.Errorf("mend %s: %w", path, err)
	}
	// More than one without an entry is not of a kill: then the records are worth more than what the index says of them.
	if int64(len(starts)) == entries+1 {
		return cut(path, starts[entries], end, log)
	}
	return nil
}

// batchesOf is where the whole batches of a segment begin, and the segment's size.
func batchesOf(path string) (starts []int64, size int64, err error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, 0, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, 0, err
	}
	var head [batchHeader]byte
	for at := int64(0); at+batchHeader <= info.Size(); {
		if _, err := f.ReadAt(head[:], at); err != nil {
			return nil, 0, err
		}
		next := at + batchHeader + int64(binary.BigEndian.Uint32(head[8:]))
		if next > info.Size() {
			break
		}
		starts = append(starts, at)
		at = next
	}
	return starts, info.Size(), nil
}

func cut(path string, to, size int64, log *slog.Logger) error {
	if to == size {
		return nil
	}
	if err := os.Truncate(path, to); err != nil {
		return fmt.Errorf("cut off what was not written whole: %w", err)
	}
	log.Warn("kafka broker: what was not written whole when the broker was killed was cut off", "file", path, "bytes", size-to)
	return nil
}
