package rows

import "sluice/libs/batch"

// Record is a record as Kafka holds it.
type Record struct {
	Topic     string
	Partition int32
	Offset    int64
	// TimestampMS is Kafka's timestamp, milliseconds since 1970; negative when the record has none.
	TimestampMS int64
	// Key is nil when the record has none. Value is not nil: tombstones are for the caller.
	Key, Value []byte
	// Headers are needed only if Plan.NeedsHeaders. Of several of one name the last one counts.
	Headers []Header
}

// Header is a header of a Kafka record. Value may be nil.
type Header struct{ Key, Value []byte }

// Row is what the later stages need to know of an event, besides its columns.
type Row struct {
	// Key is all zero when NoKey; no key has that fingerprint. Version is 0 unless the plan has a
	// version field.
	batch.Row
	// NoKey: never a duplicate of anything. The pipeline has no dedup, or the event lacks the key
	// and may pass.
	NoKey bool
	// NoTime: TimeMS is for the caller to set, to the time of arrival.
	NoTime bool
}

// Reject says why a record cannot become a row.
type Reject struct {
	// Field is the JSON path or $metadata at fault; empty when it is the event as a whole.
	Field  string
	Reason string
}
