// Package e2e tests Sluice end to end: the built binaries as processes, with a real Apache Kafka, the ClickHouse 26.5
// engine or Debian's ClickHouse server, and NATS. The tests speak to it as its users do and look at what its users get:
// rows in a table, the command line's output and exit codes. Nothing imports this package.
package e2e
