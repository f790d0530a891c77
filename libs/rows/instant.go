package rows

import (
	"bytes"
	"strconv"

	"sluice/libs/jsonread"
)

// instant is a time: seconds since 1970 and, always forward, nanoseconds.
type instant struct {
	seconds int64
	nanos   int64 // 0 … 999999999
}

// milliseconds since 1970, cut off downwards.
func (t instant) milliseconds() int64 { return t.seconds*1000 + t.nanos/1e6 }

// parseInstant reads RFC 3339, a date and a clock in UTC, or a date.
func parseInstant(b []byte) (t instant, ok bool) {
	if len(b) < 10 || b[4] != '-' || b[7] != '-' {
		return t, false
	}
	year, month, day := digits(b[:4]), digits(b[5:7]), digits(b[8:10])
	if year < 0 || month < 1 || month > 12 || day < 1 || day > daysIn(year, month) {
		return t, false
	}
	t.seconds = daysSince1970(year, month, day) * 86400
	if b = b[10:]; len(b) == 0 {
		return t, true
	}
	if b[0] != ' ' && b[0]|0x20 != 't' || len(b) < 6 || b[3] != ':' {
		return t, false
	}
	hour, minute, second := digits(b[1:3]), digits(b[4:6]), int64(0)
	if hour < 0 || hour > 23 || minute < 0 || minute > 59 {
		return t, false
	}
	if b = b[6:]; len(b) > 0 && b[0] == ':' {
		// 60 is a leap second: the one after it, as Unix time has it.
		if len(b) < 3 || digits(b[1:3]) < 0 || digits(b[1:3]) > 60 || digits(b[1:3]) == 60 && minute != 59 {
			return t, false
		}
		second = digits(b[1:3])
		if b = b[3:]; len(b) > 0 && b[0] == '.' {
			if t.nanos, b, ok = fraction(b[1:]); !ok {
				return t, false
			}
		}
	}
	t.seconds += hour*3600 + minute*60 + second
	offset, ok := zone(b)
	t.seconds -= offset
	return t, ok
}

// fraction reads the digits of a second's fraction; those beyond the ninth are cut off.
func fraction(b []byte) (nanos int64, rest []byte, ok bool) {
	n := 0
	for unit := int64(1e8); n < len(b) && b[n]-'0' <= 9; n++ {
		nanos += int64(b[n]-'0') * unit
		unit /= 10
	}
	return nanos, b[n:], n > 0
}

// zone reads Z, +hh:mm, +hhmm or nothing, which is UTC.
func zone(b []byte) (seconds int64, ok bool) {
	if len(b) == 0 || len(b) == 1 && b[0]|0x20 == 'z' {
		return 0, true
	}
	if b[0] != '+' && b[0] != '-' || len(b) < 5 {
		return 0, false
	}
	minutes := b[3:]
	if minutes[0] == ':' {
		minutes = minutes[1:]
	}
	h, m := digits(b[1:3]), digits(minutes)
	if len(minutes) != 2 || h < 0 || h > 23 || m < 0 || m > 59 {
		return 0, false
	}
	if seconds = h*3600 + m*60; b[0] == '-' {
		seconds = -seconds
	}
	return seconds, true
}

// digits is the number that b spells; -1 when it is not all digits.
func digits(b []byte) (n int64) {
	for _, c := range b {
		if c -= '0'; c > 9 {
			return -1
		}
		n = n*10 + int64(c)
	}
	return n
}

func daysIn(year, month int64) int64 {
	switch {
	case month == 2 && year%4 == 0 && (year%100 != 0 || year%400 == 0):
		return 29
	case month == 2:
		return 28
	case month == 4 || month == 6 || month == 9 || month == 11:
		return 30
	}
	return 31
}

// daysSince1970 counts in years that begin in March, so that the leap day is the last.
func daysSince1970(year, month, day int64) int64 {
	if month <= 2 {
		year--
		month += 12
	}
	return 365*year + year/4 - year/100 + year/400 + (153*(month-3)+2)/5 + day - 719469
}

// eventTime reads a time field, in milliseconds since 1970.
func (p *Parser) eventTime(v jsonread.Value) (ms int64, reason string) {
	switch v.Kind {
	case jsonread.Missing:
		return 0, "missing event time"
	case jsonread.Null:
		return 0, "the event time is null"
	case jsonread.Number:
		if ms, ok := unixMilliseconds(v); ok {
			return ms, ""
		}
	case jsonread.String:
		text := p.textOf(v)
		if t, ok := parseInstant(text); ok {
			return t.milliseconds(), ""
		}
		if ms, ok := quotedUnix(text); ok {
			return ms, ""
		}
	}
	return 0, "not a time: " + show(v) + ", expected RFC 3339, YYYY-MM-DD hh:mm:ss or a Unix time"
}

// quotedUnix reads a Unix time that was written as a text, as many do with integers that JavaScript would round. Only one of 2001 to
// 2286 counts, whose seconds have ten digits: 20260131 and 20260131123456 are dates that somebody has written without signs.
func quotedUnix(b []byte) (int64, bool) {
	whole, after, point := bytes.Cut(b, []byte{'.'})
	switch len(whole) {
	case 10, 13, 16, 19:
	default:
		return 0, false
	}
	if whole[0] == '0' || digits(whole) < 0 || point && (len(after) == 0 || len(after) > 9 || digits(after) < 0) {
		return 0, false
	}
	return unixMilliseconds(jsonread.Value{Kind: jsonread.Number, Raw: b})
}

// unixMilliseconds tells the unit of a Unix time by its size.
func unixMilliseconds(v jsonread.Value) (int64, bool) {
	millis := int64(0) // what is after the decimal point, if it counts
	if point := bytes.IndexByte(v.Raw, '.'); point >= 0 && !bytes.ContainsAny(v.Raw, "eE") {
		nanos, _, _ := fraction(v.Raw[point+1:])
		if millis = nanos / 1e6; v.Raw[0] == '-' {
			millis = -millis
		}
		v.Raw = v.Raw[:point]
	}
	n, err := v.Int64()
	if err != nil {
		return 0, false
	}
	switch size := max(n, -n); {
	case n == -n && n != 0: // the least int64
		return 0, false
	case size < 1e11:
		return n*1000 + millis, true
	case size < 1e14:
		return n, true
	case size < 1e17:
		return n / 1e3, true
	default:
		return n / 1e6, true
	}
}

// versionOf reads a version field so that the order of versions is that of the uint64.
func (p *Parser) versionOf(v jsonread.Value) (version uint64, reason string) {
	n, ok := int64(0), false
	switch v.Kind {
	case jsonread.Missing:
		return 0, "missing version"
	case jsonread.Null:
		return 0, "the version is null"
	case jsonread.Number:
		var err error
		n, err = v.Int64()
		ok = err == nil
	case jsonread.String:
		n, ok = versionText(p.textOf(v))
	}
	if !ok {
		return 0, "not a version: " + show(v) + ", expected a 64-bit integer or a time from 1678 to 2261"
	}
	return uint64(n) ^ 1<<63, ""
}

func versionText(b []byte) (int64, bool) {
	if t, ok := parseInstant(b); ok {
		const limit = 1<<63/1000000000 - 1
		return t.seconds*1e9 + t.nanos, t.seconds > -limit && t.seconds < limit
	}
	if len(b) == 0 || len(b) > 20 || b[0] == '+' {
		return 0, false
	}
	n, err := strconv.ParseInt(string(b), 10, 64)
	return n, err == nil
}

func (p *Parser) textOf(v jsonread.Value) []byte {
	if !v.Escaped {
		return v.Raw
	}
	p.scratch = v.AppendText(p.scratch[:0])
	return p.scratch
}

// show quotes the begin of a value for a reason.
func show(v jsonread.Value) string {
	const most = 64
	text := v.AppendText(nil)
	if len(text) > most {
		text = append(bytes.ToValidUTF8(text[:most], nil), "…"...)
	}
	if v.Kind == jsonread.String {
		return strconv.Quote(string(text))
	}
	return string(text)
}
