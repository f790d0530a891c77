package stack

import (
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"time"
)

// EnvBin names the directory with the binaries to test. Without it bin/ of the repository is taken when it is newer
// than every source file; else they are built.
const EnvBin = "SLUICE_BIN"

// binaries by the package that builds them.
var binaries = map[string]string{
	"sluice":   "./cmd/sluice",
	"ingestor": "./services/ingestor/cmd/ingestor",
	"dedup":    "./services/dedup/cmd/dedup",
	"join":     "./services/join/cmd/join",
	"sink":     "./services/sink/cmd/sink",
	"control":  "./services/control/cmd/control",
}

// Binaries returns the directory with the six binaries. root is the repository; tmp is where they are built when
// there are none to use.
func Binaries(root, tmp string) (string, error) {
	if dir := os.Getenv(EnvBin); dir != "" {
		return filepath.Abs(dir)
	}
	// Processes are started in directories of their own.
	root, err := filepath.Abs(root)
	if err != nil {
		return "", err
	}
	if dir := filepath.Join(root, "bin"); current(root, dir) {
		return dir, nil
	}
	args := []string{"build", "-o", tmp + string(filepath.Separator)}
	for _, pkg := range binaries {
		args = append(args, pkg)
	}
	build := exec.Command("go", args...)
	build.Dir = root
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build the binaries: %w\n%s", err, out)
	}
	return tmp, nil
}

// current tells whether dir holds all binaries, each newer than every source file.
func current(root, dir string) bool {
	var oldest time.Time
	for name := range binaries {
		info, err := os.Stat(filepath.Join(dir, name))
		if err != nil {
			return false
		}
		if oldest.IsZero() || info.ModTime().Before(oldest) {
			oldest = info.ModTime()
		}
	}
	errStale := fmt.Errorf("stale")
	for _, sources := range []string{"gen", "libs", "services", "cmd", "go.work"} {
		err := filepath.WalkDir(filepath.Join(root, sources), func(path string, d fs.DirEntry, err error) error {
			if err != nil {
				return err
			}
			ext := filepath.Ext(path)
			if d.IsDir() || ext != ".go" && ext != ".mod" && ext != ".work" {
				return nil
			}
			if info, err := d.Info(); err != nil || info.ModTime().After(oldest) {
				return errStale
			}
			return nil
		})
		if err != nil {
			return false
		}
	}
	return true
}
