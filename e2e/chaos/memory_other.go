//go:build unix && !linux

package main

// residentMemory is not known on this system.
func residentMemory(int) (uint64, bool) { return 0, false }
