// Package native holds ClickHouse types and append-only columns in (nearly) the layout of
// ClickHouse's Native format.
//
// The ingestor parses JSON straight into columns, batches carry them verbatim, and the sink
// concatenates selected rows of many batches into one block, all by copying bytes.
//
// Guaranteed: a conversion from JSON is exact or an error (*ValueError): integers and decimals of
// any width never pass through float64, nothing wraps around, is clamped or is cut. The three
// exceptions are ClickHouse's own: digits of a second beyond a time's precision are cut off, a
// float is rounded to the column's width (BFloat16: truncated), a FixedString is padded with zeros.
// A failed append leaves the column exactly as it was. AppendFromWire checks its input: hostile
// bytes give an error, never a panic, and never an allocation larger than the input justifies.
// No allocation per value once the buffers are warm, except for values of Dynamic.
//
// Not guaranteed: the text in a JSON column is checked for syntax only, so ClickHouse can still
// refuse it (a path that occurs twice, a typed path of another type); an Enum number or a Bool byte
// that came over the wire is not checked against the type. A Column is not safe for concurrent use.
//
// # What differs from Native
//
// LowCardinality(T) is plain T until the block is written; then one dictionary is built for the
// block. Dynamic is JSON text until the block is written. QBit is plain floats until then.
//
// # How JSON is read
//
//   - Integers: a number or a quoted number, also 1.0 and 1e3 when that is integral; true and false are 1 and 0.
//   - Floats: also "nan", "inf", "-inf".
//   - Decimals: digits beyond the scale must be zeros.
//   - Date, Date32: "YYYY-MM-DD", or a number of days since 1970.
//   - DateTime: "YYYY-MM-DD hh:mm[:ss[.fff]]" in the column's time zone (UTC when the type names none),
//     RFC 3339 with Z or an offset, or unix seconds.
//   - DateTime64: the same texts. A number with a fraction or in a string is unix seconds. An integer is
//     what ClickHouse's own JSONEachRow makes of it: a count of the column's ticks, so 1700000000123 in a
//     DateTime64(3) is milliseconds. A quoted integer is seconds, or ticks from 9908870400 on (as ClickHouse).
//   - Time, Time64: "[-]hhh:mm:ss[.fff]"; numbers as for DateTime and DateTime64.
//   - Enum: a name or a number. UUID: with or without hyphens. IPv6: also an IPv4 address.
//   - String, FixedString: a string; of any other value its JSON text.
//   - Tuple with names: an object (other fields are ignored) or an array; without names: an array.
//   - Map: an object. Variant: the first of its types that takes the value, see variantOrder.
//   - Dynamic: Bool, Int64, UInt64 (wider: Int128 … UInt256), Float64, String, JSON and Arrays of those. Strings stay strings.
package native
