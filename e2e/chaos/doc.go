// Command chaos tries hard to break Sluice's promise: kill anything, lose nothing, repeat nothing.
//
// Every service, NATS, a real Kafka and the ClickHouse engine are processes of their own. A producer writes keyed
// events with known duplicates for the whole run while a seeded schedule kills, stops, adds and removes processes and
// cuts connections, also so that a server does the work and its answer is lost. At the end, with lag 0, every row of
// the table is compared with what Kafka holds: the first occurrence of each key, the whole row, once; of a pipeline with a join every
// pair within the window and every left row that met nobody, as computed independently of it.
//
// Guaranteed: the same seed and number of faults give the same schedule. Not guaranteed: the same interleaving; a
// failure therefore prints the path of the offending events through the logs as they were seen while it happened.
// The program looks at what a user can see, and at the logs only to explain a failure.
package main
