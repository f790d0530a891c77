package fold

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
)

// position says how much of the input's steps is in a log: everything before step, and of step the parts up to part.
type position struct {
	// epoch is how often the input's sequences have begun anew: see heal.
	epoch uint32
	step  uint64
	part  int // or whole
}

// whole is the part of a position at the end of its step.
const whole = int(^uint(0) >> 1)

// String is the position as messages carry it: [<epoch>:]<step>[/<part>].
func (p position) String() string {
	text := strconv.FormatUint(p.step, 10)
	if p.epoch > 0 {
		text = strconv.FormatUint(uint64(p.epoch), 10) + ":" + text
	}
	if p.part != whole {
		text += "/" + strconv.Itoa(p.part)
	}
	return text
}

// positionOf reads a position; "" is the one before everything.
func positionOf(text string) (position, error) {
	p := position{part: whole}
	if text == "" {
		return p, nil
	}
	bad := fmt.Errorf("position %q in the log is not of this kind", text)
	rest := text
	if before, after, ok := strings.Cut(rest, ":"); ok {
		epoch, err := strconv.ParseUint(before, 10, 32)
		if err != nil {
			return p, bad
		}
		p.epoch, rest = uint32(epoch), after
	}
	step, part, parts := strings.Cut(rest, "/")
	var err error
	if p.step, err = strconv.ParseUint(step, 10, 64); err != nil {
		return p, bad
	}
	if parts {
		if p.part, err = strconv.Atoi(part); err != nil || p.part < 0 {
			return p, bad
		}
	}
	return p, nil
}

// covers tells whether what is at q is in the log.
func (p position) covers(q position) bool {
	if p.epoch != q.epoch {
		return p.epoch > q.epoch
	}
	return p.step > q.step || p.step == q.step && p.part >= q.part
}

func later(p, q position) position {
	if p.covers(q) {
		return p
	}
	return q
}

// Reaches tells whether position, of a message in the log of a stage that this package runs, lies at or before last. A last of "" is
// before all.
func Reaches(last, position string) (bool, error) {
	p, err := positionOf(position)
	if err != nil {
		return false, err
	}
	if position == "" {
		return false, errors.New("a message in the log has no position")
	}
	if last == "" {
		return false, nil
	}
	l, err := positionOf(last)
	return err == nil && l.covers(p), err
}
