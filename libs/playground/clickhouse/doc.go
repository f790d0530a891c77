// Package clickhouse runs a real ClickHouse in the process, for the playground and for tests: the engine of 26.5 as a
// shared library (chDB, fetched from npm), behind ClickHouse's native TCP protocol.
//
// What is the engine's own, because queries and blocks go to it unchanged: SQL, types, defaults, settings, error codes,
// tables on disk, deduplication by token or content, also after kill -9. Blocks pass through as bytes; only as much of
// them is read as tells where they end.
//
// What is this package's: connections, compression, query ids, cancellation, KILL QUERY … WHERE query_id = …, and that
// the rows of one INSERT reach the engine in one statement, when all have arrived, each Data packet as one source block.
// An INSERT is answered when the engine has committed it. Of an INSERT that was not received completely, nothing is
// written.
//
// Not as on a server: one engine per process; any user and password are welcome; everything is on loopback unless Listen
// says otherwise; no external tables, totals or AggregateFunction columns on the wire; system.processes shows the
// engine's query ids; async_insert makes no difference for rows that come as blocks, they are inserted at once; the
// setting query_cache_tag is not the client's to set.
package clickhouse
