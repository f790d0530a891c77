package native

import "time"

// parseDateTime reads a date, a clock and a zone, the last two optional. Without a zone the time is
// in loc. Of a time that the clocks show twice or skip, one of the two candidates is taken, always
// the same one (that of time.Date).
func parseDateTime(b []byte, loc *time.Location) (seconds int64, fraction []byte, ok bool) {
	days, ok := parseDate(b)
	if !ok {
		return 0, nil, false
	}
	b = b[dateLen:]
	var clock int64
	if len(b) > 0 {
		if b[0] != ' ' && b[0]|0x20 != 't' {
			return 0, nil, false
		}
		var n int
		if clock, fraction, n = parseClock(b[1:]); n == 0 || clock >= secondsPerDay {
			return 0, nil, false
		}
		b = b[1+n:]
	}
	seconds = days*secondsPerDay + clock
	switch {
	case len(b) > 0:
		offset, ok := parseOffset(b)
		return seconds - offset, fraction, ok
	case loc == time.UTC:
		return seconds, fraction, true
	}
	// time.Date knows the rules of the zone; the fields are those of the same time in UTC.
	t := time.Unix(seconds, 0).UTC()
	year, month, day := t.Date()
	return time.Date(year, month, day, t.Hour(), t.Minute(), t.Second(), 0, loc).Unix(), fraction, true
}

const dateLen = len("2006-01-02")

// parseDate reads the days since 1970 of the YYYY-MM-DD or YYYY/MM/DD at the begin of b.
func parseDate(b []byte) (days int64, ok bool) {
	if len(b) < dateLen || b[4] != b[7] || b[4] != '-' && b[4] != '/' {
		return 0, false
	}
	y1, y2, m, d := twoDigits(b), twoDigits(b[2:]), twoDigits(b[5:]), twoDigits(b[8:])
	if y1|y2|m|d < 0 {
		return 0, false
	}
	y := y1*100 + y2
	if m < 1 || m > 12 || d < 1 || d > daysIn(y, m) {
		return 0, false
	}
	// Days of the Gregorian calendar, years counted from March.
	if m <= 2 {
		y--
		m += 12
	}
	return int64(365*y + y/4 - y/100 + y/400 + (153*(m-3)+2)/5 + d - 719469), true
}

func daysIn(year, month int) int {
	switch {
	case month == 2 && year%4 == 0 && (year%100 != 0 || year%400 == 0):
		return 29
	case month == 2:
		return 28
	}
	return 30 + (month+month>>3)&1
}

// parseClock reads [h…]hh:mm[:ss[.fff]] and returns how long it is, 0 when it is none.
func parseClock(b []byte) (seconds int64, fraction []byte, n int) {
	h := min(countDigits(b), 4)
	if h == 0 || h == 4 || len(b) < h+3 || b[h] != ':' {
		return 0, nil, 0
	}
	hours := 0
	for _, c := range b[:h] {
		hours = hours*10 + int(c-'0')
	}
	minutes, sec := twoDigits(b[h+1:]), 0
	n = h + 3
	if len(b) >= n+3 && b[n] == ':' {
		sec = twoDigits(b[n+1:])
		n += 3
		if len(b) > n && b[n] == '.' {
			digits := countDigits(b[n+1:])
			if digits == 0 {
				return 0, nil, 0
			}
			fraction = b[n+1 : n+1+digits]
			n += 1 + digits
		}
	}
	if minutes < 0 || minutes > 59 || sec < 0 || sec > 59 {
		return 0, nil, 0
	}
	return int64(hours*3600 + minutes*60 + sec), fraction, n
}

// parseOffset reads Z, +hh, +hhmm or +hh:mm, with or without a space before it.
func parseOffset(b []byte) (seconds int64, ok bool) {
	if b[0] == ' ' {
		b = b[1:]
	}
	if len(b) == 1 && b[0]|0x20 == 'z' || string(b) == "UTC" {
		return 0, true
	}
	if len(b) < 3 || b[0] != '+' && b[0] != '-' {
		return 0, false
	}
	hours, minutes := twoDigits(b[1:]), 0
	switch rest := b[3:]; {
	case len(rest) == 2:
		minutes = twoDigits(rest)
	case len(rest) == 3 && rest[0] == ':':
		minutes = twoDigits(rest[1:])
	case len(rest) != 0:
		return 0, false
	}
	if hours < 0 || hours > 23 || minutes < 0 || minutes > 59 {
		return 0, false
	}
	if seconds = int64(hours*3600 + minutes*60); b[0] == '-' {
		seconds = -seconds
	}
	return seconds, true
}

// twoDigits reads two digits at the begin of b; negative when they are none.
func twoDigits(b []byte) int {
	hi, lo := b[0]-'0', b[1]-'0'
	if hi > 9 || lo > 9 {
		return -1
	}
	return int(hi)*10 + int(lo)
}

// fractionTicks is the first precision digits of a second's fraction.
func fractionTicks(digits []byte, precision int) (ticks int64) {
	for i := range precision {
		ticks *= 10
		if i < len(digits) {
			ticks += int64(digits[i] - '0')
		}
	}
	return ticks
}
