// Package vega gives tests the data files of the npm package vega-datasets: real data of a fixed version.
//
// The package is fetched once into the user's cache and its hash is checked at every use. Without npm the test is
// skipped with one line; with CI=true it fails.
package vega

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"crypto/sha512"
	"encoding/base64"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

const (
	version = "3.2.1"
	archive = "vega-datasets-" + version + ".tgz"
	// integrity is what npm's registry gives for the version.
	integrity = "lTSwZA6yq6qSU2YZm+6bqILiIvTPPxn4itir7jPGFmHIdPvUfQ9pCzzcrklYywMJgLUbaIeSkZQdiJd6wBxPug=="
)

// File returns a file of the package, by its path there.
func File(t testing.TB, name string) []byte {
	t.Helper()
	b, err := load()
	require.NoError(t, err)
	if b == nil {
		npm, err := exec.LookPath("npm")
		if err != nil {
			if os.Getenv("CI") == "true" {
				t.Fatal("npm, which fetches vega-datasets, is not installed")
			}
			t.Skip("skipped: npm, which fetches vega-datasets, is not installed")
		}
		require.NoError(t, fetch(npm))
		b, err = load()
		require.NoError(t, err)
	}
	gz, err := gzip.NewReader(bytes.NewReader(b))
	require.NoError(t, err)
	for tr := tar.NewReader(gz); ; {
		h, err := tr.Next()
		require.NoError(t, err, "look for %s in %s", name, archive)
		if h.Name == "package/"+name {
			content, err := io.ReadAll(tr)
			require.NoError(t, err)
			return content
		}
	}
}

func cache() (string, error) {
	dir, err := os.UserCacheDir()
	if err != nil {
		return "", fmt.Errorf("find the user's cache: %w", err)
	}
	return filepath.Join(dir, "sluice"), nil
}

// load returns the package, or nil when it is not in the cache or not what it should be.
func load() ([]byte, error) {
	dir, err := cache()
	if err != nil {
		return nil, err
	}
	b, err := os.ReadFile(filepath.Join(dir, archive))
	if os.IsNotExist(err) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read the data: %w", err)
	}
	if check(b) != nil {
		return nil, nil
	}
	return b, nil
}

func check(b []byte) error {
	sum := sha512.Sum512(b)
	if got := base64.StdEncoding.EncodeToString(sum[:]); got != integrity {
		return fmt.Errorf("check %s: sha512 is %s, want %s", archive, got, integrity)
	}
	return nil
}

// fetch puts the package into the cache, at once or not at all.
func fetch(npm string) error {
	dir, err := cache()
	if err != nil {
		return err
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("make the cache: %w", err)
	}
	tmp, err := os.MkdirTemp(dir, "vega-")
	if err != nil {
		return fmt.Errorf("fetch the data: %w", err)
	}
	defer os.RemoveAll(tmp)
	fmt.Fprintf(os.Stderr, "fetching vega-datasets %s from npm: 17 MB, once\n", version)
	pack := exec.Command(npm, "pack", "vega-datasets@"+version, "--silent")
	pack.Dir = tmp
	if out, err := pack.CombinedOutput(); err != nil {
		return fmt.Errorf("npm pack vega-datasets@%s: %w: %s", version, err, out)
	}
	b, err := os.ReadFile(filepath.Join(tmp, archive))
	if err != nil {
		return fmt.Errorf("npm pack left no %s: %w", archive, err)
	}
	if err := check(b); err != nil {
		return err
	}
	if err := os.Rename(filepath.Join(tmp, archive), filepath.Join(dir, archive)); err != nil {
		return fmt.Errorf("put the data in its place: %w", err)
	}
	return nil
}
