// Command window measures what a long window costs: a dedup process whose windows of seven days hold so many keys, between two
// logs of a NATS process. It writes the ingest log itself, and so decides when events arrive.
//
// It prints the rate and the CPU of filling the window, the size of the state in NATS, what checkpoints cost while events trickle in,
// with no keys and with all of them, and how long a restart takes: from the start of the process to the first answer
// of every lane, which needs the whole state. Every answer is checked: keys of the first hour are duplicates still.
//
// Absolute times are noisy on a shared machine. Not measured: Kafka, the ingestor, the sink.
package main
