package jsonread

// skip checks the value that begins at b[i] inside level depth, and returns the index after it.
// It keeps the open levels in bits and does not recur: a document may be as deep as the limit allows.
func (r *Reader) skip(b []byte, i, depth int) (int, fault) {
	base := depth
	inObject := false
	for {
		if i >= len(b) {
			return i, badEnd
		}
		var bad fault
		entered := false
		switch c := b[i]; {
		case c == '"':
			if i, _, bad = scanString(b, i+1); bad != fine {
				return i, bad
			}
			i++
		case c == '-' || c-'0' < 10:
			if i, bad = scanNumber(b, i); bad != fine {
				return i, bad
			}
		case c == '{' || c == '[':
			if depth++; depth > r.limits.Depth {
				return i, badDepth
			}
			inObject = c == '{'
			r.push(depth, inObject)
			if i = skipSpace(b, i+1); !closes(b, i, inObject) {
				entered = true
				break
			}
			i++
			depth--
			inObject = depth > base && r.isObject(depth)
		default:
			if i, _, bad = scanLiteral(b, i); bad != fine {
				return i, bad
			}
		}

		// A value is done: levels end, up to a comma or the end of the value that was to be skipped.
		for !entered {
			if depth == base {
				return i, fine
			}
			if i < len(b) && b[i] <= ' ' {
				i = skipSpace(b, i)
			}
			if i >= len(b) {
				return i, badEnd
			}
			if b[i] == ',' {
				i = skipSpace(b, i+1)
				break
			}
			if !closes(b, i, inObject) {
				if inObject {
					return i, badObject
				}
				return i, badArray
			}
			i++
			depth--
			inObject = depth > base && r.isObject(depth)
		}
		if !inObject {
			continue
		}
		if i, bad = r.skipKey(b, i); bad != fine {
			return i, bad
		}
	}
}

// skipKey checks a field name and its colon and returns the index of the value.
func (r *Reader) skipKey(b []byte, i int) (int, fault) {
	if i >= len(b) {
		return i, badEnd
	}
	if b[i] != '"' {
		return i, badKey
	}
	if r.keys--; r.keys < 0 {
		return i, badKeys
	}
	i, _, bad := scanString(b, i+1)
	if bad != fine {
		return i, bad
	}
	if i = skipSpace(b, i+1); i >= len(b) {
		return i, badEnd
	}
	if b[i] != ':' {
		return i, badColon
	}
	return skipSpace(b, i+1), fine
}

func closes(b []byte, i int, object bool) bool {
	if i >= len(b) {
		return false
	}
	if object {
		return b[i] == '}'
	}
	return b[i] == ']'
}

func (r *Reader) push(depth int, object bool) {
	word, bit := &r.nesting[depth>>6], uint64(1)<<(depth&63)
	if object {
		*word |= bit
	} else {
		*word &^= bit
	}
}

func (r *Reader) isObject(depth int) bool { return r.nesting[depth>>6]>>(depth&63)&1 != 0 }
