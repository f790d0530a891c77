//go:build unix

package e2e

import (
	"fmt"
	"os"
	"testing"

	"sluice/e2e/internal/stack"
)

// TestMain finds or builds the binaries once and names their directory to the tests.
func TestMain(m *testing.M) {
	os.Exit(run(m))
}

func run(m *testing.M) int {
	tmp, err := os.MkdirTemp("", "sluice-e2e-")
	if err == nil {
		defer os.RemoveAll(tmp)
		var dir string
		if dir, err = stack.Binaries("..", tmp); err == nil {
			err = os.Setenv(stack.EnvBin, dir)
		}
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return m.Run()
}

// bin is the directory of the binaries.
func bin(t *testing.T) string {
	t.Helper()
	dir := os.Getenv(stack.EnvBin)
	if dir == "" {
		t.Fatal("TestMain has not run")
	}
	return dir
}
