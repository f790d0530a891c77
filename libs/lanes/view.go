package lanes

import (
	"encoding/json"
	"strconv"
	"strings"
	"time"
)

// laneID names a lane of the stage.
type laneID struct {
	pipeline string
	index    int
}

// memberRecord is what an instance writes about itself.
type memberRecord struct {
	// Session is new each time that the instance joins: leases of an earlier session are void.
	Session  string `json:"session"`
	Draining bool   `json:"draining,omitempty"`
}

// laneRecord is the lease of a lane; a released one has no record.
type laneRecord struct {
	Instance string `json:"instance"`
	Session  string `json:"session"`
}

// member is a memberRecord as observed.
type member struct {
	memberRecord
	rev  uint64
	gone bool
	// changed is when this process first saw rev; touched when it last saw it.
	changed, touched time.Time
}

// lease is a laneRecord as observed.
type lease struct {
	laneRecord
	rev     uint64
	gone    bool
	touched time.Time
}

// view is what this process knows of the bucket. It has no clock: times are arguments.
type view struct {
	// synced: the watcher has delivered everything that was there when it began.
	synced  bool
	members map[string]*member
	lanes   map[laneID]*lease
}

func newView() *view {
	return &view{members: map[string]*member{}, lanes: map[laneID]*lease{}}
}

// apply takes an entry in; older ones than known are ignored, so own writes may be entered before
// the watcher brings them. value is nil for a removed key. key is without the stage.
func (v *view) apply(key string, value []byte, rev uint64, now time.Time) {
	switch kind, rest, _ := strings.Cut(key, "."); kind {
	case "members":
		m := v.members[rest]
		if m == nil {
			m = &member{}
			v.members[rest] = m
		}
		m.touched = now
		if rev <= m.rev {
			return
		}
		m.memberRecord, m.gone = memberRecord{}, value == nil
		// A record that cannot be read is a member of no session: it owns nothing and ages like any.
		_ = json.Unmarshal(value, &m.memberRecord)
		m.rev, m.changed = rev, now
	case "lane":
		dot := strings.LastIndexByte(rest, '.')
		if dot < 0 {
			return
		}
		index, err := strconv.Atoi(rest[dot+1:])
		if err != nil {
			return
		}
		id := laneID{rest[:dot], index}
		l := v.lanes[id]
		if l == nil {
			l = &lease{}
			v.lanes[id] = l
		}
		l.touched = now
		if rev <= l.rev {
			return
		}
		l.laneRecord, l.gone = laneRecord{}, value == nil
		_ = json.Unmarshal(value, &l.laneRecord)
		l.rev = rev
	}
}

// sweep forgets what a watcher that began at start did not bring: it is not in the bucket any more.
func (v *view) sweep(start time.Time) {
	for k, m := range v.members {
		if m.touched.Before(start) {
			delete(v.members, k)
		}
	}
	for k, l := range v.lanes {
		if l.touched.Before(start) {
			delete(v.lanes, k)
		}
	}
}

// forget drops the traces of removed keys once no late message can be older than them.
func (v *view) forget(before time.Time) {
	for k, m := range v.members {
		if m.gone && m.touched.Before(before) {
			delete(v.members, k)
		}
	}
	for k, l := range v.lanes {
		if l.gone && l.touched.Before(before) {
			delete(v.lanes, k)
		}
	}
}

// owner is the member that holds the lane; "" when it is free.
func (v *view) owner(id laneID) string {
	l := v.lanes[id]
	if l == nil || l.gone {
		return ""
	}
	if m := v.members[l.Instance]; m != nil && !m.gone && m.Session == l.Session && m.Session != "" {
		return l.Instance
	}
	return ""
}

// silent: the record has not changed for the lease time, so its writer is dead.
func (m *member) silent(leaseTime time.Duration, now time.Time) bool {
	return !m.gone && now.Sub(m.changed) >= leaseTime
}

// dead are the members whose record has not changed for the lease time.
func (v *view) dead(self string, leaseTime time.Duration, now time.Time) []string {
	var out []string
	for name, m := range v.members {
		if m.Session != self && m.silent(leaseTime, now) {
			out = append(out, name)
		}
	}
	return out
}
