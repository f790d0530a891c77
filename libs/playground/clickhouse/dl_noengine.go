//go:build noengine

package clickhouse

import "fmt"

// Built with the tag noengine a program is linked statically and runs in an image that holds nothing
// else. It cannot run the playground's ClickHouse.

func dlopen(string) (uintptr, error) {
	return 0, fmt.Errorf("%w: this program was built without it", ErrUnavailable)
}

func dlsym(uintptr, string) (uintptr, error) { return 0, ErrUnavailable }

func registerFunc(any, uintptr) {}
