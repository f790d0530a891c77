package spec

import (
	"slices"
	"strings"
	"time"

	controlv1 "sluice/gen/sluice/control/v1"
)

// Side is the side of a join that a source is on.
type Side int

// The sides of a join.
const (
	Left Side = iota
	Right
)

// Branch is the way of one source up to the join, or of the only source to the sink.
type Branch struct {
	Source  string // its name; "" without a join
	Spec    *controlv1.Source
	Dedup   *controlv1.Dedup // nil: every event passes
	JoinKey []string         // fields, in the order of join.on; nil without a join
	Time    string           // event-time field for the join; "" = the Kafka timestamp
	Side    Side
	// Relane: the dedup key is not the join key, field by field, so that dedup works in other lanes than the join and has to take the
	// batches apart.
	Relane bool
}

// Field is where the branch's source stands in the specification.
func (b Branch) Field() string {
	if b.Source == "" {
		return "source"
	}
	return "sources." + b.Source
}

// Branches returns the branches of a pipeline with its defaults: one without a join, else left and right. A source of a
// join that is not there has no branch.
func Branches(p *controlv1.Pipeline) []Branch {
	join := p.GetJoin()
	if join == nil {
		return []Branch{{Spec: p.GetSource(), Dedup: p.GetDedup()}}
	}
	var branches []Branch
	for side, name := range []string{join.GetLeft(), join.GetRight()} {
		source := p.GetSources()[name]
		if source == nil {
			continue
		}
		b := Branch{Source: name, Spec: source, Dedup: source.GetDedup(), Time: source.GetTime(), Side: Side(side)}
		for _, on := range join.GetOn() {
			field := on.GetLeft()
			if b.Side == Right {
				field = on.GetRight()
			}
			b.JoinKey = append(b.JoinKey, field)
		}
		b.Relane = b.Dedup != nil && !slices.Equal(b.Dedup.GetKey(), b.JoinKey)
		branches = append(branches, b)
	}
	return branches
}

// BranchOf returns the branch of a source; ok is false when there is none of that name.
func BranchOf(p *controlv1.Pipeline, source string) (b Branch, ok bool) {
	for _, b := range Branches(p) {
		if b.Source == source {
			return b, true
		}
	}
	return Branch{}, false
}

// Columns returns the columns of a schema that take their values from the source, in the schema's order: the layout of that
// source's batches.
func Columns(schema *controlv1.Schema, source string) []*controlv1.SchemaColumn {
	var columns []*controlv1.SchemaColumn
	for _, c := range schema.GetColumns() {
		if c.GetSource() == source {
			columns = append(columns, c)
		}
	}
	return columns
}

// Qualified takes a column's `from` with a source's name in front apart: orders.amount. Without a join nothing is.
func Qualified(p *controlv1.Pipeline, from string) (source, path string, ok bool) {
	if p.GetJoin() == nil {
		return "", from, false
	}
	source, path, dotted := strings.Cut(from, ".")
	if _, known := p.GetSources()[source]; !dotted || !known || path == "" {
		return "", from, false
	}
	return source, Path(path), true
}

// TellsProgress tells whether the branch's batches say how far event time has come in their partition: for the watermark of the join, or for dedup
// by a field of the event. Lanes without rows get batches without, so that they hear it.
func (b Branch) TellsProgress() bool { return b.JoinKey != nil || b.Dedup.GetTime() != "" }

const (
	minHeartbeat = 100 * time.Millisecond
	maxHeartbeat = time.Second
)

// What all heartbeats of a pipeline may be in the log where they are most, in messages a second: of partitions that are idle, and of those that are read but have no
// rows for some lanes. A stage reads, appends or passes on each of them, for no row.
const (
	idleMessages = 100
	busyMessages = 1000
)

// share is how long it takes, at so many messages a second, until one partition of the branch has told all lanes, with what the branch may take of them. Where
// batches are taken apart, each lane of dedup passes on to each lane of the join what it hears.
func share(p *controlv1.Pipeline, b Branch, messages int) time.Duration {
	round := int(p.GetLanes()) * len(Branches(p))
	if b.Relane {
		round *= int(p.GetLanes())
	}
	return time.Second / time.Duration(messages) * time.Duration(round)
}

// HeartbeatEach is the least that Heartbeat is for each partition of the branch's topic.
func HeartbeatEach(p *controlv1.Pipeline, b Branch) time.Duration { return share(p, b, busyMessages) }

// Heartbeat is how long a lane may go without hearing that the event time of a partition has moved, of a topic of so many.
func Heartbeat(p *controlv1.Pipeline, b Branch, partitions int) time.Duration {
	return max(heartbeat(p), time.Duration(partitions)*HeartbeatEach(p, b))
}

// heartbeat is Heartbeat where there are few messages. It is a tenth of what a row
// waits in any case, so that it adds little to that; where no row waits, as in dedup, it is long. Where batches are taken apart, each lane of dedup passes on
// to each lane of the join what it hears: with many lanes it is said the less often, so that the messages grow with the lanes and not with their square.
func heartbeat(p *controlv1.Pipeline) time.Duration {
	join := p.GetJoin()
	if join == nil {
		return maxHeartbeat
	}
	waits := join.GetGrace().AsDuration()
	if join.GetKind() != controlv1.Join_LOOKUP {
		waits += join.GetWindow().AsDuration()
	}
	return min(max(waits/10, minHeartbeat), seldomHeartbeat(p))
}

// seldomHeartbeat is what heartbeat is at most.
func seldomHeartbeat(p *controlv1.Pipeline) time.Duration {
	most := maxHeartbeat
	for _, b := range Branches(p) {
		if b.Relane {
			most = max(most, maxHeartbeat*time.Duration(p.GetLanes())/DefaultLanes)
		}
	}
	return most
}

// confirmations is how often an idle partition says so in the time that one of them is good for: one or two may be late.
const confirmations = 3

// maxConfirm is the most that Confirm is without a join.
const maxConfirm = time.Minute

// Confirm is how long it is believed that a partition is idle which has said so: what comes to it after that would else be passed over by the
// others, in an outage of the partition's ingestor or of NATS. Within grace that makes nothing late. A grace that is shorter than some heartbeats
// would cost too many of them. Without a join it is for dedup by a field of the event, which compares what is up to a window late with all that it
// should be; it may take a minute until memory is given back.
func Confirm(p *controlv1.Pipeline) time.Duration {
	late := min(p.GetDedup().GetWindow().AsDuration(), maxConfirm)
	if join := p.GetJoin(); join != nil {
		late = join.GetGrace().AsDuration()
	}
	return max(late, confirmations*seldomHeartbeat(p))
}

// ConfirmEach is the least that it is for each partition of the branch's topic.
func ConfirmEach(p *controlv1.Pipeline, b Branch) time.Duration {
	return confirmations * share(p, b, idleMessages)
}

// idleShare is how many times as long as Heartbeat an idle partition may be silent.
const idleShare = 3

// IdleHeartbeat is how long a lane may go at least, and at most, without hearing that an idle partition still is, of a topic of so many. In a join, rows wait
// for it: the partition holds the watermark where it was heard to be.
func IdleHeartbeat(p *controlv1.Pipeline, b Branch, partitions int) (least, most time.Duration) {
	most = Confirm(p) / confirmations
	if p.GetJoin() != nil {
		most = min(most, idleShare*heartbeat(p))
	}
	least = max(Heartbeat(p, b, partitions), time.Duration(partitions)*share(p, b, idleMessages))
	return least, max(least, most)
}

// Idle is how long a partition without new events holds the watermark back.
func Idle(p *controlv1.Pipeline) time.Duration {
	join := p.GetJoin()
	idle := join.GetIdle().AsDuration()
	if join.GetWindow() == nil {
		return idle // a LOOKUP that remembers for good
	}
	return min(idle, join.GetWindow().AsDuration()+join.GetGrace().AsDuration())
}
