package spec

import (
	"slices"
	"strings"
)

// Kafka metadata that a column can take its value from.
const (
	MetaTopic     = "$topic"
	MetaPartition = "$partition"
	MetaOffset    = "$offset"
	MetaTimestamp = "$timestamp"
	MetaKey       = "$key"
	MetaHeader    = "$header" // with the header's name behind a dot: $header.trace-id
)

const metadataNames = "$topic, $partition, $offset, $timestamp, $key, $header.NAME"

var plainMetadata = []string{MetaTopic, MetaPartition, MetaOffset, MetaTimestamp, MetaKey}

// Metadata tells whether `from` of a column names Kafka metadata, which, and for MetaHeader the
// header's name. It returns false for a JSON path and for metadata that does not exist.
func Metadata(from string) (name, header string, ok bool) {
	if slices.Contains(plainMetadata, from) {
		return from, "", true
	}
	if header, found := strings.CutPrefix(from, MetaHeader+"."); found && header != "" {
		return MetaHeader, header, true
	}
	return "", "", false
}

// Path returns a field path in its normal form: the root that JSONPath writes in front ($.user.id)
// is dropped. Nothing else is touched, since any other character may be part of a field's name.
func Path(path string) string {
	if rest, ok := strings.CutPrefix(path, "$."); ok {
		return rest
	}
	return path
}

// pathProblem says what is wrong with a normalised path; "" when nothing is.
func pathProblem(path string) string {
	switch {
	case path == "":
		return "is empty"
	case strings.HasPrefix(path, ".") || strings.HasSuffix(path, ".") || strings.Contains(path, ".."):
		return "has an empty step"
	case strings.Contains(path, "["):
		return "looks into an array, which a path cannot"
	}
	return ""
}
