// Package stack runs Sluice for the end-to-end tests as its users do: the built binaries as processes on free ports of
// loopback, spoken to through the command line, gRPC, Kafka and SQL only.
//
// It guarantees that no process outlives its test, that every port is free when it is chosen and stays the same over
// restarts, and that the logs of all processes are printed when the test fails, and only then. It does not look inside:
// nothing here imports a service, and a test that passes has seen nothing that a user could not see.
package stack
