package clickhouse

import (
	"archive/tar"
	"compress/gzip"
	"context"
	"crypto/sha512"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
)

// EnvLibrary names a libchdb.so to use instead of the published one.
const EnvLibrary = "SLUICE_CHDB_LIB"

const (
	engineVersion = "26.5.3"
	libraryName   = "libchdb.so"
)

// engineIntegrity is what npm's registry says about the package, by platform. The engine is published in this version for
// these platforms only.
var engineIntegrity = map[string]struct{ pkg, sha512 string }{
	"linux/amd64": {"@chdb/lib-linux-x64-gnu", "fPrLmRt5Moor9yGz4mazbrNje4t7X9KB2mTGkXFWRxRBs2iKy8yh6jx11xsa0Qr3iDFMU/yHqd+bVdYJXu3QaQ=="},
}

// ErrUnavailable says that the engine cannot be had on this machine: no npm, no network, another platform.
var ErrUnavailable = errors.New("the ClickHouse engine is not available")

// Library is the path of the engine's shared library: the one that SLUICE_CHDB_LIB names, the one in the user's cache, or
// the one it fetches from npm into the cache (166 MB, once; a line to progress says so). Processes that fetch at the same
// time wait for one of them. An interrupted fetch leaves nothing that a later one would take for the library.
func Library(ctx context.Context, progress io.Writer) (string, error) {
	if path := os.Getenv(EnvLibrary); path != "" {
		if _, err := os.Stat(path); err != nil {
			return "", fmt.Errorf("%w: %s: %w", ErrUnavailable, EnvLibrary, err)
		}
		return path, nil
	}
	cache, err := os.UserCacheDir()
	if err != nil {
		return "", fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	dir := filepath.Join(cache, "sluice", "chdb-"+engineVersion)
	path := filepath.Join(dir, libraryName)
	if _, err := os.Stat(path); err == nil {
		return path, nil
	}
	from, ok := engineIntegrity[runtime.GOOS+"/"+runtime.GOARCH]
	if !ok {
		return "", fmt.Errorf("%w: it is not published for %s/%s; name a libchdb in %s", ErrUnavailable, runtime.GOOS, runtime.GOARCH, EnvLibrary)
	}
	npm, err := exec.LookPath("npm")
	if err != nil {
		return "", fmt.Errorf("%w: npm, which fetches it, is not installed (or name a libchdb in %s)", ErrUnavailable, EnvLibrary)
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", fmt.Errorf("make the engine's cache: %w", err)
	}
	unlock, err := lockDir(dir)
	if err != nil {
		return "", err
	}
	defer unlock()
	if _, err := os.Stat(path); err == nil { // another process was quicker
		return path, nil
	}
	_, _ = fmt.Fprintf(progress, "fetching the ClickHouse engine from npm: %s %s, 166 MB, once\n", from.pkg, engineVersion)
	tmp, err := os.MkdirTemp(dir, "fetch-")
	if err != nil {
		return "", fmt.Errorf("fetch the engine: %w", err)
	}
	defer func() { _ = os.RemoveAll(tmp) }()
	pack := exec.CommandContext(ctx, npm, "pack", from.pkg+"@"+engineVersion, "--silent")
	pack.Dir = tmp
	if out, err := pack.CombinedOutput(); err != nil {
		return "", fmt.Errorf("%w: npm pack %s@%s: %w: %s", ErrUnavailable, from.pkg, engineVersion, err, lastLine(out))
	}
	packages, err := filepath.Glob(filepath.Join(tmp, "*.tgz"))
	if err != nil || len(packages) != 1 {
		return "", fmt.Errorf("%w: npm pack %s@%s left %d packages", ErrUnavailable, from.pkg, engineVersion, len(packages))
	}
	unpacked := filepath.Join(tmp, libraryName)
	if err := unpack(packages[0], from.sha512, unpacked); err != nil {
		return "", err
	}
	if err := os.Rename(unpacked, path); err != nil {
		return "", fmt.Errorf("put the engine in its place: %w", err)
	}
	return path, nil
}

// unpack checks the package and takes the library out of it.
func unpack(archive, want, to string) error {
	f, err := os.Open(archive)
	if err != nil {
		return fmt.Errorf("unpack the engine: %w", err)
	}
	defer func() { _ = f.Close() }()
	hash := sha512.New()
	if _, err := io.Copy(hash, f); err != nil {
		return fmt.Errorf("check the engine: %w", err)
	}
	if got := base64.StdEncoding.EncodeToString(hash.Sum(nil)); got != want {
		return fmt.Errorf("check the engine: sha512 of the package is %s, want %s", got, want)
	}
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return fmt.Errorf("unpack the engine: %w", err)
	}
	gz, err := gzip.NewReader(f)
	if err != nil {
		return fmt.Errorf("unpack the engine: %w", err)
	}
	for tr := tar.NewReader(gz); ; {
		h, err := tr.Next()
		if err == io.EOF {
			return fmt.Errorf("unpack the engine: the package has no %s: %w", libraryName, fs.ErrNotExist)
		}
		if err != nil {
			return fmt.Errorf("unpack the engine: %w", err)
		}
		if h.Name == "package/"+libraryName {
			return writeFile(to, tr)
		}
	}
}

func writeFile(to string, from io.Reader) error {
	out, err := os.OpenFile(to, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o755)
	if err != nil {
		return fmt.Errorf("unpack the engine: %w", err)
	}
	_, err = io.Copy(out, from)
	if err == nil {
		err = out.Sync()
	}
	if e := out.Close(); err == nil {
		err = e
	}
	if err != nil {
		return fmt.Errorf("unpack the engine: %w", err)
	}
	return nil
}

func lastLine(out []byte) string {
	lines := strings.Split(strings.TrimSpace(string(out)), "\n")
	return lines[len(lines)-1]
}
