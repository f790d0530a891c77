package fold

import (
	"errors"
	"fmt"
	"strconv"
	"strings"

	"sluice/libs/fencedlog"
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

// nothing is the position before all, as text.
const nothing = "0"

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

// Through tells whether what was made of a step of the input is in the log, as the position of the last message there says. Positions of another epoch count the steps of
// another log.
func Through(last string, epoch uint32, step uint64) (bool, error) {
	p, err := positionOf(last)
	return err == nil && p.epoch == epoch && p.covers(position{epoch, step, whole}), err
}

// Broken tells, of a message in the log of a Replayer, that it does not follow from what a reader of that log has had of its writer: last is the position of that, and
// made when what that was made of was stored, in nanoseconds since 1970, as the message's Link said; 0: it did not. Then the log has lost its tail, and the log that
// it was made of, too: the lane puts out again, in whatever order results, what it does not know to be out. Messages that it has made anew of the same input come
// under their old positions, and are not broken. Of those of an earlier version it cannot be told.
func Broken(last string, made int64, m fencedlog.Message) (bool, error) {
	if last == "" || m.Link.Input.Sequence == 0 {
		return false, nil
	}
	again, err := Reaches(last, m.Position)
	if err != nil {
		return false, err
	}
	if at := m.Link.Input.Time.UnixNano(); again { // what was lost was stored before what came in its place
		return made != 0 && (at > made || m.Position == last && at != made), nil
	}
	if m.Link.After == "" {
		return false, nil
	}
	there, err := Reaches(m.Link.After, last)
	return err == nil && !there, err
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
