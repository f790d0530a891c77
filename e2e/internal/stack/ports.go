package stack

import (
	"testing"

	"sluice/e2e/internal/ports"
)

// FreeAddrs is ports.Free for a test.
func FreeAddrs(t testing.TB, n int) []string {
	t.Helper()
	addrs, err := ports.Free(n)
	if err != nil {
		t.Fatal(err)
	}
	return addrs
}
