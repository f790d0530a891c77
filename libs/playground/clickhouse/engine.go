package clickhouse

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
)

// engine is the process's one ClickHouse. The library allows one directory at a time, so servers on the same directory
// share it, and another directory is an error until all of them are closed.
type engine struct {
	mu   sync.Mutex
	lib  *libchdb
	dir  string
	root *link // keeps the engine alive; nil: nobody uses it
	uses int

	// Guarded by mu, constant while root is open.
	version  string
	timezone string
}

var process engine // one per process, because the library is

// acquire starts the engine on dir, or joins it.
func (e *engine) acquire(library, dir string) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	dir, err := filepath.Abs(dir)
	if err != nil {
		return fmt.Errorf("find the directory of the ClickHouse engine: %w", err)
	}
	if e.root != nil {
		if e.dir != dir {
			return fmt.Errorf("start the ClickHouse engine on %s: this process already runs it on %s, and can run only one", dir, e.dir)
		}
		e.uses++
		return nil
	}
	if e.lib == nil {
		if e.lib, err = load(library); err != nil {
			return err
		}
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("make the directory of the ClickHouse engine: %w", err)
	}
	root, err := e.lib.open(dir)
	if err != nil {
		return fmt.Errorf("start the ClickHouse engine on %s: %w", dir, err)
	}
	about, err := root.query("SELECT version(), timezone()", "TabSeparated")
	if err != nil {
		root.close()
		return fmt.Errorf("ask the ClickHouse engine for its version: %w", err)
	}
	e.version, e.timezone, _ = strings.Cut(strings.TrimSpace(string(about)), "\t")
	e.root, e.dir, e.uses = root, dir, 1
	return nil
}

// release stops the engine when nobody uses it any more.
func (e *engine) release() {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.uses--; e.uses == 0 {
		e.root.close()
		e.root = nil
	}
}
