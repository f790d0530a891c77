package clickhouse

import (
	"fmt"
	"io"
	"os"
	"runtime"
)

// spool keeps the rows of one INSERT in a file, because the engine's interface takes no binary rows otherwise. The file
// is in memory as long as it is small.
type spool struct {
	dir  string // for large ones
	file *os.File
	size int64
}

const (
	memoryDir   = "/dev/shm"
	memoryBytes = 512 << 20
)

func newSpool(dir string) *spool { return &spool{dir: dir} }

func (s *spool) write(b []byte) error {
	if s.file == nil {
		if err := s.create(); err != nil {
			return err
		}
	}
	if s.size <= memoryBytes && s.size+int64(len(b)) > memoryBytes {
		if err := s.leaveMemory(); err != nil {
			return err
		}
	}
	if _, err := s.file.Write(b); err != nil {
		return fmt.Errorf("keep the rows of an INSERT: %w", err)
	}
	s.size += int64(len(b))
	return nil
}

// leaveMemory goes on in a file on disk.
func (s *spool) leaveMemory() error {
	small := *s
	defer small.remove()
	if err := s.createIn(s.dir); err != nil {
		return err
	}
	if _, err := io.Copy(s.file, io.NewSectionReader(small.file, 0, s.size)); err != nil {
		return fmt.Errorf("keep the rows of an INSERT: %w", err)
	}
	return nil
}

func (s *spool) create() error {
	if s.createIn(memoryDir) == nil {
		return nil
	}
	return s.createIn(s.dir)
}

// createIn makes a file without a name: nothing is left of it however the process ends.
func (s *spool) createIn(dir string) error {
	file, err := os.CreateTemp(dir, "sluice-insert-")
	if err != nil {
		return fmt.Errorf("keep the rows of an INSERT: %w", err)
	}
	s.file = file
	if unnamed {
		return os.Remove(file.Name())
	}
	return nil
}

// unnamed: an open file can be opened again without its name.
const unnamed = runtime.GOOS == "linux"

// path is where the engine finds the file, which runs in this process.
func (s *spool) path() string {
	if unnamed {
		return fmt.Sprintf("/proc/self/fd/%d", s.file.Fd())
	}
	return s.file.Name()
}

func (s *spool) remove() {
	if s.file == nil {
		return
	}
	_ = s.file.Close()
	if !unnamed {
		_ = os.Remove(s.file.Name())
	}
}
