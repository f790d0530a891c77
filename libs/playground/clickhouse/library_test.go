package clickhouse

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"crypto/sha512"
	"encoding/base64"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"testing"

	"github.com/stretchr/testify/require"
)

func archive(t *testing.T, name, content string) (path, hash string) {
	var b bytes.Buffer
	gz := gzip.NewWriter(&b)
	tw := tar.NewWriter(gz)
	require.NoError(t, tw.WriteHeader(&tar.Header{Name: name, Size: int64(len(content)), Mode: 0o755}))
	_, err := io.WriteString(tw, content)
	require.NoError(t, err)
	require.NoError(t, tw.Close())
	require.NoError(t, gz.Close())
	path = filepath.Join(t.TempDir(), "p.tgz")
	require.NoError(t, os.WriteFile(path, b.Bytes(), 0o600))
	sum := sha512.Sum512(b.Bytes())
	return path, base64.StdEncoding.EncodeToString(sum[:])
}

func TestUnpackChecksThePackage(t *testing.T) {
	path, hash := archive(t, "package/libchdb.so", "engine")
	to := filepath.Join(t.TempDir(), "lib")
	require.NoError(t, unpack(path, hash, to))
	got, err := os.ReadFile(to)
	require.NoError(t, err)
	require.Equal(t, "engine", string(got))

	other, otherHash := archive(t, "package/else", "engine")
	require.ErrorContains(t, unpack(other, hash, to+"2"), "sha512")
	require.NoFileExists(t, to+"2")
	require.ErrorIs(t, unpack(other, otherHash, to+"2"), os.ErrNotExist)
}

func TestLibraryWithoutNPM(t *testing.T) {
	t.Setenv(EnvLibrary, "")
	t.Setenv("XDG_CACHE_HOME", t.TempDir())
	t.Setenv("HOME", t.TempDir())
	t.Setenv("PATH", t.TempDir())
	_, err := Library(t.Context(), io.Discard)
	require.ErrorIs(t, err, ErrUnavailable)
	if runtime.GOOS == "linux" && runtime.GOARCH == "amd64" {
		require.ErrorContains(t, err, "npm")
	}
	t.Setenv(EnvLibrary, "/nosuch/lib.so")
	_, err = Library(t.Context(), io.Discard)
	require.ErrorContains(t, err, EnvLibrary)
}
