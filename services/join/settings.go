package join

import (
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	controlv1 "sluice/gen/sluice/control/v1"
	"sluice/libs/spec"
	"sluice/libs/watermark"
	"sluice/services/join/internal/match"
)

// settings are the durations that decide what a join puts out, and that a user may change while it runs. The checkpoint says which hold: what is
// in the log already is replayed under them, and a change is on record before anything is put out under it. Milliseconds.
type settings struct {
	window, wait, grace, idle, maxFuture int64
	// confirm follows from grace and lanes: 0 in states of before there was such a thing.
	confirm int64
	// holds is 1 where an idle partition whose time goes on with the clock holds the watermark at that time: 0 in states of before.
	holds int64
	// each is what confirm is at least for each partition of the left and of the right topic: 0 in states of before.
	each [2]int64
}

func settingsOf(p *controlv1.Pipeline) settings {
	join := p.GetJoin()
	s := settings{
		window: join.GetWindow().AsDuration().Milliseconds(), wait: join.GetWait().AsDuration().Milliseconds(),
		grace: join.GetGrace().AsDuration().Milliseconds(), idle: spec.Idle(p).Milliseconds(), maxFuture: join.GetMaxFuture().AsDuration().Milliseconds(),
		confirm: spec.Confirm(p).Milliseconds(), holds: 1,
	}
	for _, b := range spec.Branches(p) {
		s.each[b.Side] = spec.ConfirmEach(p, b).Milliseconds()
	}
	if join.GetWindow() == nil {
		s.window = match.Forever
	}
	return s
}

// semantics is the join's part of them.
func (s settings) semantics(join *controlv1.Join) match.Config {
	return match.Config{
		Lookup: join.GetKind() == controlv1.Join_LOOKUP, Outer: join.GetType() == controlv1.Join_LEFT,
		WindowMS: s.window, WaitMS: s.wait, MaxFutureMS: s.maxFuture,
	}
}

// times is the watermark's part of them; names are the sources', left and right.
func (s settings) times(names [2]string, writers map[string]int) watermark.Config {
	return watermark.Config{
		GraceMS: s.grace, IdleMS: s.idle, MaxFutureMS: s.maxFuture, LiveHolds: s.holds > 0, Writers: writers,
		ConfirmMS: s.confirm, ConfirmEachMS: map[string]int64{names[0]: s.each[0], names[1]: s.each[1]},
	}
}

// bornMS is the width of a bucket of log time: what a segment of the checkpoint is kept for beyond what its rows need.
func (s settings) bornMS() int64 {
	if s.window == match.Forever {
		return 10 * 60_000 // nothing leaves by time: see state.Store.Renew
	}
	return min(max((s.window+s.wait+s.grace)/32, 1000), 60*60_000)
}

// unitMS is what times of segments are counted in.
const unitMS = 1000

// adopt changes over to settings.
func (c *core) adopt(s settings) {
	config := c.joiner.Config()
	config.WindowMS, config.WaitMS, config.MaxFutureMS = s.window, s.wait, s.maxFuture
	c.settings = s
	c.joiner.Adopt(config)
	c.tracker.Adopt(s.times(c.names, nil))
	c.rows.Buckets(c.unitMS, uint32(s.bornMS()/c.unitMS))
}

// Adopt changes over to the settings that are asked for now.
func (c *core) Adopt() (changed bool, err error) {
	if c.adopted && (c.settings == c.asked || c.past != nil) { // what comes again is decided as it was
		return false, nil
	}
	if c.adopted {
		c.log.Info("the join's settings have changed", "from", c.settings.String(), "to", c.asked.String())
	}
	c.adopt(c.asked)
	c.adopted = true
	return true, nil
}

func (s settings) String() string {
	text := fmt.Sprintf("grace %v, idle %v, wait %v", ms(s.grace), ms(s.idle), ms(s.wait))
	if s.window != match.Forever {
		text = fmt.Sprintf("window %v, ", ms(s.window)) + text
	}
	if s.maxFuture > 0 {
		text += fmt.Sprintf(", max_future %v", ms(s.maxFuture))
	}
	return text
}

func ms(n int64) time.Duration { return time.Duration(n) * time.Millisecond }

func (c *core) appendSettings(dst []byte) []byte {
	s := &c.settings
	for _, n := range []int64{c.unitMS, s.window, s.wait, s.grace, s.idle, s.maxFuture, s.confirm, s.holds, s.each[0], s.each[1]} {
		dst = binary.AppendVarint(dst, n)
	}
	return dst
}

// restoreSettings goes back to those that a checkpoint of a version was made under, and returns what follows them.
func (c *core) restoreSettings(version uint64, src []byte) ([]byte, error) {
	var s settings
	all := []*int64{&c.unitMS, &s.window, &s.wait, &s.grace, &s.idle, &s.maxFuture, &s.confirm, &s.holds, &s.each[0], &s.each[1]}
	switch {
	case version < 3:
		all = all[:6]
	case version == 3:
		all = all[:7]
	}
	for _, n := range all {
		v, size := binary.Varint(src)
		if size <= 0 {
			return nil, errors.New("the join's settings are cut off")
		}
		*n, src = v, src[size:]
	}
	if c.unitMS <= 0 {
		return nil, errors.New("the join's unit of time is not one")
	}
	c.adopt(s)
	c.adopted = true
	return src, nil
}
