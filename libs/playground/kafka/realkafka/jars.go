//go:build unix

package realkafka

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	_ "embed"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
)

// Version is the release of Apache Kafka that Run starts.
const Version = "4.2.0"

// ErrUnavailable says that this machine has not what a real Kafka needs: a Java runtime, and Maven to load it the
// first time.
var ErrUnavailable = errors.New("a real Kafka cannot be had on this machine")

//go:embed pom.xml
var pom []byte

// jarSums is the output of sha256sum over all jars that the pom brings.
//
//go:embed jars.sha256
var jarSums []byte

// Jars returns the directory with Kafka's jars, in dir or (when dir is empty) the user's cache. It loads them with
// Maven when they are missing or differ from the recorded checksums; processes that come at the same time wait for
// the one that loads. Progress is one line on log.
func Jars(ctx context.Context, dir string, log io.Writer) (string, error) {
	if dir == "" {
		cache, err := os.UserCacheDir()
		if err != nil {
			return "", fmt.Errorf("find a cache directory for Kafka: %w", err)
		}
		dir = filepath.Join(cache, "sluice", "kafka-"+Version)
	}
	if checkJars(dir) == nil {
		return dir, nil
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", fmt.Errorf("make Kafka's cache directory: %w", err)
	}
	lock, err := os.OpenFile(dir+".lock", os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return "", fmt.Errorf("open the lock of Kafka's cache directory: %w", err)
	}
	defer lock.Close() // also gives the lock back
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX); err != nil {
		return "", fmt.Errorf("lock Kafka's cache directory %s: %w", dir, err)
	}
	if checkJars(dir) == nil {
		return dir, nil // loaded by the process that we waited for
	}
	fmt.Fprintf(log, "loading Apache Kafka %s with Maven (43 MB, once) into %s\n", Version, dir)
	if err := loadJars(ctx, dir); err != nil {
		return "", err
	}
	if err := checkJars(dir); err != nil {
		return "", fmt.Errorf("jars of Kafka as loaded: %w", err)
	}
	return dir, nil
}

// loadJars fetches into a directory of its own and renames file by file, so that dir never holds half a jar.
func loadJars(ctx context.Context, dir string) error {
	mvn, err := exec.LookPath("mvn")
	if err != nil {
		return fmt.Errorf("%w: mvn, which loads Kafka's jars, is not installed", ErrUnavailable)
	}
	work, err := os.MkdirTemp(filepath.Dir(dir), "kafka-load-")
	if err != nil {
		return fmt.Errorf("make a directory to load Kafka into: %w", err)
	}
	defer os.RemoveAll(work)
	if err := os.WriteFile(filepath.Join(work, "pom.xml"), pom, 0o644); err != nil {
		return fmt.Errorf("write Kafka's pom.xml: %w", err)
	}
	cmd := exec.CommandContext(ctx, mvn, "-B", "-q", "dependency:copy-dependencies",
		"-DincludeScope=runtime", "-DoutputDirectory="+filepath.Join(work, "lib"))
	cmd.Dir = work
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("load Kafka's jars with mvn: %w\n%s", err, out)
	}
	jars, err := filepath.Glob(filepath.Join(work, "lib", "*.jar"))
	if err != nil {
		return fmt.Errorf("list Kafka's jars: %w", err)
	}
	for _, jar := range jars {
		if err := os.Rename(jar, filepath.Join(dir, filepath.Base(jar))); err != nil {
			return fmt.Errorf("move Kafka's jar into the cache: %w", err)
		}
	}
	return nil
}

// checkJars hashes every jar of the list: 43 MB, some hundredths of a second.
func checkJars(dir string) error {
	lines := bufio.NewScanner(bytes.NewReader(jarSums))
	for lines.Scan() {
		want, name, ok := strings.Cut(lines.Text(), "  ")
		if !ok {
			return fmt.Errorf("jars.sha256: line %q is not a checksum and a name", lines.Text())
		}
		f, err := os.Open(filepath.Join(dir, name))
		if err != nil {
			return err
		}
		h := sha256.New()
		_, err = io.Copy(h, f)
		_ = f.Close()
		if err != nil {
			return fmt.Errorf("read %s: %w", name, err)
		}
		if got := hex.EncodeToString(h.Sum(nil)); got != want {
			return fmt.Errorf("%s has sha256 %s, want %s", name, got, want)
		}
	}
	return lines.Err()
}
