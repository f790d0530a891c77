//go:build unix

package clickhouse

import (
	"fmt"
	"os"
	"path/filepath"
	"syscall"
)

// lockDir waits until no other process holds the directory's lock. The lock goes with the process, however it ends.
func lockDir(dir string) (unlock func(), err error) {
	f, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return nil, fmt.Errorf("lock the engine's cache: %w", err)
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX); err != nil {
		_ = f.Close()
		return nil, fmt.Errorf("lock the engine's cache: %w", err)
	}
	return func() { _ = f.Close() }, nil
}
