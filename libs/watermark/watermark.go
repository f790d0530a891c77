// Package watermark tells how far event time has come in a lane: the time that no partition will go back behind, but
// for rows that are late.
//
// Guaranteed: the watermark depends on the batches alone, in their order, and never goes back. A partition of which nothing is known yet, or
// one that has had no event, holds it back. A silent partition's time goes on with the clock if its events come about when they happen, and it holds the watermark there:
// what comes next is no further out of order than grace. Of events of long ago, or from a clock of their own, a pause says nothing of how far time has come:
// such a partition, and one without events, holds it where it is until it has been idle for long enough, and then not for as long as it is heard to be.
//
// Not guaranteed: that no row comes behind it. That is what grace is for, and the dead letters.
package watermark

import (
	"encoding/binary"
	"errors"
	"math"
	"slices"
	"strings"
)

// None is the watermark before there is one.
const None = math.MinInt64

// Config of a lane. Durations in milliseconds.
type Config struct {
	GraceMS, IdleMS int64
	// MaxFutureMS is how far an event time may be ahead of its arrival to say anything of how far time has come; 0: as far as it likes.
	MaxFutureMS int64
	// ConfirmMS is how old the last word of a partition that is idle may be, against what has been heard of the others, for it not to hold the watermark
	// back: an outage must not let the others pass what came to it meanwhile. 0: however old.
	ConfirmMS int64
	// ConfirmEachMS is how much that is at least for each partition of a source: of many, each says it the less often.
	ConfirmEachMS map[string]int64
	// LiveHolds: an idle partition whose time goes on with the clock holds the watermark at that time, however fresh its last word is.
	LiveHolds bool
	// Still: time does not go on with the clock where nothing comes, but only with events. How far it has come then depends on them alone.
	Still bool
	// Writers is how many writers of the lane's log each source comes through: each of its partitions is heard of from all
	// of them. 1 where a partition has a writer of its own, or one writer for each lane.
	Writers map[string]int
}

// Batch is what a batch says.
type Batch struct {
	Writer    string
	Source    string
	TopicID   string
	Partition int32
	ArrivalMS int64
	// MaxMS is the largest event time of the partition up to and with the batch, if HasMax.
	MaxMS  int64
	HasMax bool
	// IdleSinceMS is since when there has been nothing to read; 0: there is more.
	IdleSinceMS int64
	// Partitions is how many the topic has.
	Partitions int
}

// Tracker is the state.
type Tracker struct {
	config    Config
	sources   map[string]*source
	watermark int64
}

// source is one incarnation of a topic.
type source struct {
	topicID, before string
	partitions      int
	heard           map[int32]map[string]progress // by partition and writer

	// What follows from heard under the configuration: a batch changes one partition of perhaps thousands.
	stands []partition
	at     map[int32]int // where a partition is in stands
}

func newSource() *source {
	return &source{heard: map[int32]map[string]progress{}, at: map[int32]int{}}
}

// forget forgets what was heard.
func (s *source) forget() {
	s.heard, s.partitions, s.stands, s.at = map[int32]map[string]progress{}, 0, nil, map[int32]int{}
}

type progress struct {
	maxMS   int64
	hasMax  bool
	idleMS  int64
	live    bool  // its last record came within idle of the largest event time
	heardMS int64 // arrival of the batch that said so; 0: not known
}

// New makes a tracker without a watermark.
func New(config Config) *Tracker {
	t := &Tracker{config: config, sources: map[string]*source{}, watermark: None}
	for name := range config.Writers {
		t.sources[name] = newSource()
	}
	return t
}

// Adopt changes over to other durations, from the next batch on; the writers stay.
func (t *Tracker) Adopt(config Config) {
	config.Writers = t.config.Writers
	t.config = config
	for _, s := range t.sources {
		t.reckonPartitions(s)
	}
}

// Watermark is what holds now.
func (t *Tracker) Watermark() int64 { return t.watermark }

// Add takes a batch in and returns the watermark after it.
func (t *Tracker) Add(b Batch) int64 {
	s := t.sources[b.Source]
	if s == nil || !s.current(b.TopicID) {
		return t.watermark
	}
	s.partitions = max(s.partitions, b.Partitions)
	writers := s.heard[b.Partition]
	if writers == nil {
		writers = map[string]progress{}
		s.heard[b.Partition] = writers
	}
	p := progress{maxMS: b.MaxMS, hasMax: b.HasMax, heardMS: b.ArrivalMS}
	if most := t.config.MaxFutureMS; most > 0 && b.HasMax && b.MaxMS > add(b.ArrivalMS, most) {
		// One broken clock must not make all that comes after it late. The ingestor leaves such times out, but by what held for it.
		p.maxMS, p.hasMax = writers[b.Writer].maxMS, writers[b.Writer].hasMax
	}
	if b.IdleSinceMS > 0 {
		p.idleMS = max(b.ArrivalMS-b.IdleSinceMS, 0)
		p.live = p.hasMax && b.IdleSinceMS <= add(p.maxMS, t.config.IdleMS) && p.maxMS <= add(b.IdleSinceMS, t.config.IdleMS)
	}
	writers[b.Writer] = p
	t.reckonPartition(s, b.Partition)
	t.watermark = max(t.watermark, t.reckon())
	return t.watermark
}

// current tells whether a batch is of the topic as it is now. One made anew begins anew; what still comes of the one
// before says nothing.
func (s *source) current(id string) bool {
	switch {
	case id == s.topicID:
		return true
	case s.topicID != "" && id == s.before:
		return false
	case s.topicID != "":
		s.forget()
	}
	s.before, s.topicID = s.topicID, id
	return true
}

// stand is where a source stands.
type stand struct {
	held    int64 // least time of the partitions that hold the watermark back; None: without limit
	holds   bool
	largest int64 // of any partition; None: no event
}

// partition is where a partition stands: the least of what its writers have said.
type partition struct {
	time    int64 // how far its event time has come, if has
	has     bool
	live    bool
	idleMS  int64
	heardMS int64
	latest  int64 // of heardMS
	writers int   // heard of
}

func (t *Tracker) reckonPartition(s *source, number int32) {
	i, known := s.at[number]
	if !known {
		i = len(s.stands)
		s.at[number], s.stands = i, append(s.stands, partition{})
	}
	s.stands[i] = t.partition(s.heard[number])
}

func (t *Tracker) reckonPartitions(s *source) {
	for _, number := range sortedNumbers(s.heard) {
		t.reckonPartition(s, number)
	}
}

func (t *Tracker) partition(writers map[string]progress) partition {
	out := partition{time: math.MaxInt64, has: true, live: true, idleMS: math.MaxInt64, heardMS: math.MaxInt64, writers: len(writers)}
	for _, p := range writers {
		at := p.maxMS
		if !t.config.Still && (p.live || p.idleMS >= t.config.IdleMS) {
			at = add(at, p.idleMS)
		}
		out.time, out.idleMS, out.heardMS = min(out.time, at), min(out.idleMS, p.idleMS), min(out.heardMS, p.heardMS)
		out.has, out.live, out.latest = out.has && p.hasMax, out.live && p.live, max(out.latest, p.heardMS)
	}
	return out
}

// latest is the arrival of the newest batch that counts, of any partition.
func (t *Tracker) latest() (ms int64) {
	for _, s := range t.sources {
		for i := range s.stands {
			ms = max(ms, s.stands[i].latest)
		}
	}
	return ms
}

// stand reckons with the partitions of one source; latest is the arrival of the newest batch of all.
func (t *Tracker) stand(name string, latest int64) stand {
	s := t.sources[name]
	out := stand{held: math.MaxInt64, largest: None}
	if s.partitions == 0 || len(s.heard) < s.partitions {
		out.held, out.holds = None, true
	}
	confirm := t.config.ConfirmMS
	if confirm > 0 {
		confirm = max(confirm, int64(s.partitions)*t.config.ConfirmEachMS[name])
	}
	for i := range s.stands {
		p := &s.stands[i]
		if p.has {
			out.largest = max(out.largest, p.time)
		}
		idle := p.idleMS >= t.config.IdleMS
		stale := confirm > 0 && latest > add(p.heardMS, confirm)
		switch {
		case p.writers < t.config.Writers[name]:
			out.held, out.holds = None, true
		case idle && !stale && !(t.config.LiveHolds && p.live):
		case !p.has, idle && !p.live:
			out.held, out.holds = None, true
		default:
			out.held, out.holds = min(out.held, p.time), true
		}
	}
	return out
}

func (t *Tracker) reckon() int64 {
	held, holds, largest, latest := int64(math.MaxInt64), false, int64(None), t.latest()
	for name := range t.sources {
		s := t.stand(name, latest)
		holds = holds || s.holds
		held = min(held, s.held)
		largest = max(largest, s.largest)
	}
	if !holds {
		held = largest
	}
	if held == None || largest == None {
		return None
	}
	return add(held, -t.config.GraceMS)
}

// Source is how far one source has come, less grace; for people to look at. None when that is not known.
func (t *Tracker) Source(name string) int64 {
	s := t.stand(name, t.latest())
	at := s.held
	if !s.holds {
		at = s.largest
	}
	if at == None {
		return None
	}
	return add(at, -t.config.GraceMS)
}

// add adds without running over.
func add(a, b int64) int64 {
	switch sum := a + b; {
	case b > 0 && sum < a:
		return math.MaxInt64
	case b < 0 && sum > a:
		return math.MinInt64 + 1
	default:
		return sum
	}
}

// Inherit takes over from the tracker of a lane before, of several one after the other: the furthest watermark, and which topics there are. Of their
// partitions nothing is known until they are heard again.
func (t *Tracker) Inherit(old *Tracker) {
	t.watermark = max(t.watermark, old.watermark)
	for name, s := range t.sources {
		o := old.sources[name]
		switch {
		case o == nil || o.topicID == "":
		case s.topicID == "" || o.before == s.topicID:
			s.topicID, s.before, s.partitions = o.topicID, o.before, o.partitions
		case s.topicID == o.topicID:
			s.partitions = max(s.partitions, o.partitions)
		}
	}
}

// Append appends the state to dst.
func (t *Tracker) Append(dst []byte) []byte {
	text := func(s string) { dst = append(binary.AppendUvarint(dst, uint64(len(s))), s...) }
	dst = binary.AppendVarint(dst, t.watermark)
	dst = binary.AppendUvarint(dst, uint64(len(t.sources)))
	for _, name := range sorted(t.sources) {
		s := t.sources[name]
		text(name)
		text(s.topicID)
		text(s.before)
		dst = binary.AppendUvarint(dst, uint64(s.partitions))
		dst = binary.AppendUvarint(dst, uint64(len(s.heard)))
		for _, partition := range sortedNumbers(s.heard) {
			dst = binary.AppendUvarint(dst, uint64(partition))
			dst = binary.AppendUvarint(dst, uint64(len(s.heard[partition])))
			for _, writer := range sorted(s.heard[partition]) {
				p := s.heard[partition][writer]
				text(writer)
				dst = binary.AppendUvarint(dst, p.flags())
				dst = binary.AppendVarint(dst, p.maxMS)
				dst = binary.AppendVarint(dst, p.idleMS)
				dst = binary.AppendVarint(dst, p.heardMS)
			}
		}
	}
	return dst
}

const (
	flagHasMax = 1 << iota
	flagLive
	flagHeard
)

func (p progress) flags() (flags uint64) {
	flags = flagHeard // states of before did not have it
	if p.hasMax {
		flags |= flagHasMax
	}
	if p.live {
		flags |= flagLive
	}
	return flags
}

func sorted[V any](m map[string]V) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.SortFunc(keys, strings.Compare)
	return keys
}

func sortedNumbers[V any](m map[int32]V) []int32 {
	keys := make([]int32, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}

var errDamaged = errors.New("the watermark's state is damaged")

// Restore reads what Append has written into a new tracker, and returns what follows it.
func (t *Tracker) Restore(src []byte) ([]byte, error) {
	bad := false
	number := func() uint64 {
		v, n := binary.Uvarint(src)
		if n <= 0 {
			bad, src = true, nil
			return 0
		}
		src = src[n:]
		return v
	}
	signed := func() int64 {
		v, n := binary.Varint(src)
		if n <= 0 {
			bad, src = true, nil
			return 0
		}
		src = src[n:]
		return v
	}
	text := func() string {
		n := number()
		if n > uint64(len(src)) {
			bad, src = true, nil
			return ""
		}
		s := string(src[:n])
		src = src[n:]
		return s
	}
	t.watermark = signed()
	for range number() {
		if bad {
			return nil, errDamaged
		}
		name := text()
		s := newSource()
		s.topicID, s.before, s.partitions = text(), text(), int(number())
		for range number() {
			if bad {
				return nil, errDamaged
			}
			partition := int32(number())
			s.heard[partition] = map[string]progress{}
			for range number() {
				if bad {
					return nil, errDamaged
				}
				writer := text()
				flags := number()
				p := progress{hasMax: flags&flagHasMax != 0, live: flags&flagLive != 0, maxMS: signed(), idleMS: signed()}
				if flags&flagHeard != 0 {
					p.heardMS = signed()
				}
				s.heard[partition][writer] = p
			}
		}
		if t.sources[name] != nil {
			t.sources[name] = s
			t.reckonPartitions(s)
		}
	}
	if bad {
		return nil, errDamaged
	}
	return src, nil
}
