package native

import (
	"bytes"
	"errors"

	"sluice/libs/jsonread"
)

// maxInferDepth is how deep arrays get a type of their own in Dynamic; deeper ones are Dynamic.
const maxInferDepth = 8

// inferType is the type that a value has in a Dynamic column. It holds the value exactly, but for
// fractions, which are Float64, and integers beyond 256 bits, which are, too.
func inferType(v jsonread.Value, depth int) string {
	switch v.Kind {
	case jsonread.True, jsonread.False:
		return "Bool"
	case jsonread.Number:
		return inferNumber(v.Raw)
	case jsonread.Object:
		return "JSON"
	case jsonread.Array:
		return inferArray(v, depth)
	}
	return "String"
}

func inferNumber(b []byte) string {
	if bytes.ContainsAny(b, ".eE") {
		if _, err := parseFloat(b, 64); err != nil {
			return "String" // 1e999: the only type that keeps it
		}
		return "Float64"
	}
	n, neg, f := parseWide(b, 0)
	switch {
	case f != exact:
		if _, err := parseFloat(b, 64); err != nil {
			return "String"
		}
		return "Float64"
	case fitsSigned(n, neg, 64):
		return "Int64"
	case !neg && n.less(powerOf2(64)):
		return "UInt64"
	case fitsSigned(n, neg, 128):
		return "Int128"
	case fitsSigned(n, neg, 256):
		return "Int256"
	case neg:
		return "Float64"
	}
	return "UInt256"
}

func fitsSigned(n uint256, neg bool, bits int) bool {
	half := powerOf2(bits - 1)
	return n.less(half) || neg && n == half
}

var errMixed = errors.New("elements of several types")

// inferArray is Array(Nullable(T)) of scalars of one type, as ClickHouse's inference has it,
// Array(T) of arrays or objects of one type, else Array(Dynamic).
func inferArray(v jsonread.Value, depth int) string {
	if depth >= maxInferDepth {
		return "Array(Dynamic)"
	}
	inner, null := "", false
	err := jsonread.Elements(v.Raw, func(v jsonread.Value) error {
		if v.Kind == jsonread.Null {
			null = true
			return nil
		}
		t := inferType(v, depth+1)
		if inner != "" && inner != t {
			return errMixed
		}
		inner = t
		return nil
	})
	composite := inner == "JSON" || len(inner) > 5 && inner[:5] == "Array"
	switch {
	case err != nil || composite && null:
		return "Array(Dynamic)"
	case inner == "":
		return "Array(Nullable(String))" // nothing but NULLs
	case composite:
		return "Array(" + inner + ")"
	}
	return "Array(Nullable(" + inner + "))"
}
