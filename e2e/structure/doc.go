// Package structure tests how the packages of the project depend on each other: one table of what must not be imported by
// whom, with the reason beside each line (rules_test.go). It reads the import clauses of all Go files in the tree, of every
// build tag and platform, so it needs no build.
//
// Not tested: what third-party packages import among themselves.
package structure
