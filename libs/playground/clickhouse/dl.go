//go:build !noengine

package clickhouse

import "github.com/ebitengine/purego"

// What the engine is loaded with. purego needs no C compiler, but a program that holds it is linked
// dynamically: see dl_noengine.go.

func dlopen(path string) (uintptr, error) {
	return purego.Dlopen(path, purego.RTLD_NOW|purego.RTLD_LOCAL)
}

func dlsym(handle uintptr, name string) (uintptr, error) { return purego.Dlsym(handle, name) }

func registerFunc(fn any, symbol uintptr) { purego.RegisterFunc(fn, symbol) }
