//go:build !linux

package clickhouse

// keepSignals just runs fn: the engine is published for Linux only, and elsewhere SLUICE_CHDB_LIB names a library at
// the user's own risk.
func keepSignals(fn func()) { fn() }
