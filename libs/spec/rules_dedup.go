package spec

import (
	"fmt"
	"slices"

	controlv1 "sluice/gen/sluice/control/v1"
)

// dedup checks the rules of duplicates; at is where they stand.
func (c *checks) dedup(at string, d *controlv1.Dedup) {
	if d == nil {
		return
	}
	seen := map[string]int{}
	for i, key := range d.Key {
		field := fmt.Sprintf("%s.key[%d]", at, i)
		c.eventField(field, key)
		path := Path(key)
		if first, again := seen[path]; again && d.Key[first] != key {
			// Equal texts are found by the rules of the definition; these only mean the same.
			c.add(field, key, fmt.Sprintf("is the same field as key[%d]", first), "keep one of the two")
		}
		if _, again := seen[path]; !again {
			seen[path] = i
		}
	}
	if d.Time != "" {
		c.eventField(at+".time", d.Time)
	}
	if d.Version != "" {
		c.eventField(at+".version", d.Version)
	}
	switch d.Keep {
	case controlv1.Keep_LATEST:
		if d.Version == "" {
			c.add(at+".version", "", "is missing; keep: LATEST needs it", "name the field that orders the events of a key, an integer or a time")
		} else if slices.ContainsFunc(d.Key, func(key string) bool { return Path(key) == Path(d.Version) }) {
			c.add(at+".version", d.Version, "is part of the key, so each version would be a key of its own", "take it out of "+at+".key")
		}
	case controlv1.Keep_KEEP_UNSPECIFIED, controlv1.Keep_FIRST:
		if d.Version != "" {
			c.add(at+".version", d.Version, "is only used by keep: LATEST", "set keep: LATEST, or leave version out")
		}
	default:
		c.add(at+".keep", fmt.Sprint(int32(d.Keep)), "is not known", "give FIRST or LATEST")
	}
	if _, known := controlv1.MissingKey_name[int32(d.MissingKey)]; !known {
		c.add(at+".missing_key", fmt.Sprint(int32(d.MissingKey)), "is not known", "give DEAD_LETTER or PASS")
	}
}

// eventField checks a path into the event itself.
func (c *checks) eventField(field, path string) {
	if path == "" {
		return // said by the rules of the definition
	}
	if _, _, ok := Metadata(path); ok {
		c.add(field, path, "is Kafka metadata, not a field of the event", "name a field; metadata can only fill a column")
		return
	}
	if what := pathProblem(Path(path)); what != "" {
		c.add(field, path, what, "give the names of the fields joined by dots, such as user.id")
	}
}
