// Package rows turns one Kafka record into one row: the key fingerprint, time and version that
// the later stages work with, with a join the join key's fingerprint and the event time, too, and a value in each column.
//
// Guaranteed: the outcome depends on the record and the plan only. A row is appended to all
// columns or to none. Two keys have the same fingerprint if their fields are equal as
// jsonread.Value.AppendCanonical defines it, otherwise not, but for a collision of XXH3-128. Nothing
// is allocated per record once the buffers are warm, except for a record that is refused.
//
// Not guaranteed: that a field which the plan does not name occurs only once in the record.
//
// An event that lacks a field of the join key, or has null there, has no join key; it is no fault. An event without the time
// that it is joined by is refused.
//
// # Event time
//
// A time field is a number of seconds, milliseconds, microseconds or nanoseconds since 1970, told
// apart by size: below 10^11 it is seconds (to the year 5138), below 10^14 milliseconds, below 10^17
// microseconds. So milliseconds before March 1973 are taken for seconds. Digits after a decimal
// point are kept to the millisecond. Or it is a string: RFC 3339, or YYYY-MM-DD[ hh:mm[:ss[.fff]]],
// which is UTC. A quoted number is not a time: 20260131 would be one by mistake.
//
// # Version
//
// A version field is an integer of 64 bits with sign, quoted or not, or a time as a string, which
// counts as nanoseconds since 1970 (from 1678 to 2261). Both make one order: a field must
// not change between them.
package rows
