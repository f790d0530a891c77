package native

import "strconv"

// plainTypes are the types without arguments.
var plainTypes = func() map[string]Type {
	m := map[string]Type{
		"Float32":  {kind: kindFloat, width: 4},
		"Float64":  {kind: kindFloat, width: 8},
		"BFloat16": {kind: kindBFloat16, width: 2},
		"Bool":     {kind: kindBool, width: 1},
		"String":   {kind: kindString},
		"Date":     {kind: kindDate, width: 2},
		"Date32":   {kind: kindDate32, width: 4},
		"Time":     {kind: kindTime, width: 4},
		"UUID":     {kind: kindUUID, width: 16},
		"IPv4":     {kind: kindIPv4, width: 4},
		"IPv6":     {kind: kindIPv6, width: 16},
		"Nothing":  {kind: kindNothing, width: 1},
	}
	for width := 1; width <= 32; width *= 2 {
		bits := strconv.Itoa(8 * width)
		m["Int"+bits] = Type{kind: kindInt, width: width}
		m["UInt"+bits] = Type{kind: kindUint, width: width}
	}
	for _, unit := range []string{"Nanosecond", "Microsecond", "Millisecond", "Second", "Minute", "Hour",
		"Day", "Week", "Month", "Quarter", "Year"} {
		m["Interval"+unit] = Type{kind: kindInt, width: 8}
	}
	return m
}()

// geoTypes are names for compositions of other types.
var geoTypes = map[string]string{
	"Point":           "Tuple(Float64, Float64)",
	"Ring":            "Array(Point)",
	"LineString":      "Array(Point)",
	"MultiLineString": "Array(LineString)",
	"Polygon":         "Array(Ring)",
	"MultiPolygon":    "Array(Polygon)",
	"Geometry":        "Variant(LineString, MultiLineString, MultiPolygon, Point, Polygon, Ring)",
}
