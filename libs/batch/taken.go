package batch

import (
	"cmp"
	"fmt"
	"math/bits"
	"slices"
	"sort"
	"strconv"
	"strings"

	eventv1 "sluice/gen/sluice/event/v1"
)

// Taken knows which rows of a lane have been taken, by where they are in Kafka: so that a row that comes a second time, in another
// message, because the log had lost its tail and was filled again, is told from one that has not come yet.
//
// It relies on this: the rows of one writer of the log that are of one Kafka partition come with rising offsets. That ends where Kafka
// itself gives offsets out anew (View.Rewinds) or the topic is made anew (View.TopicID). A few of those incarnations are remembered, since
// a lane that goes back in the log meets the older ones again.
//
// Not told apart: rows of a partition that lost its end in Kafka (other records have the offsets now), if the ingest
// log then lost its own record of that as well.
type Taken struct {
	partitions map[partitionOf][]incarnation // oldest first, at least one
}

// incarnations is how many of a partition are remembered.
const incarnations = 4

type partitionOf struct {
	writer, source string
	partition      int32
}

type incarnation struct {
	topicID [16]byte
	rewinds uint32
	next    int64 // all rows with a lower offset are taken
}

// NewTaken returns one that knows of nothing.
func NewTaken() *Taken { return &Taken{partitions: map[partitionOf][]incarnation{}} }

// Admit tells how many rows at the front of a batch, selected or not, were taken before. From here on all its rows are.
func (t *Taken) Admit(writer string, v *View) (before int) {
	n := t.Before(writer, v)
	if n < v.Rows && len(v.Offsets) > 0 {
		// A lookup by bytes does not allocate; only here a row is new, and with it perhaps the key.
		key := partitionOf{writer, string(v.Source), v.Partition}
		list, i := t.find(writer, v)
		if i < 0 {
			list = append(list, incarnation{topicID: [16]byte(pad(v.TopicID)), rewinds: v.Rewinds})
			if len(list) > incarnations {
				list = slices.Delete(list, 0, 1)
			}
			i = len(list) - 1
			t.partitions[key] = list
		}
		list[i].next = v.Offset(v.Rows-1) + 1
	}
	return n
}

// End returns a batch of only the last row, with where that is and nothing else: to Admit it takes all rows of v.
func (v *View) End() View {
	if v.Rows == 0 || len(v.Offsets) == 0 {
		return View{}
	}
	return View{
		Source: v.Source, TopicID: v.TopicID, Partition: v.Partition, Rewinds: v.Rewinds, RewoundTo: v.RewoundTo,
		Rows: 1, Selected: 1, FirstOffset: v.Offset(v.Rows - 1), Offsets: make([]byte, OffsetBytes),
	}
}

// Before is Admit without taking anything.
func (t *Taken) Before(writer string, v *View) int {
	if v.Rows == 0 || len(v.Offsets) == 0 { // what a join puts out has no offsets: its rows are not told apart
		return 0
	}
	list, i := t.find(writer, v)
	var next int64
	switch {
	case i >= 0:
		next = list[i].next
	case len(list) > 0:
		// Below the offset from which on Kafka gave them out anew they are the same records.
		if last := list[len(list)-1]; last.topicID == [16]byte(pad(v.TopicID)) && last.rewinds+1 == v.Rewinds {
			next = min(last.next, v.RewoundTo)
		}
	}
	if next <= v.FirstOffset {
		return 0
	}
	return sort.Search(v.Rows, func(row int) bool { return v.Offset(row) >= next })
}

// find returns the incarnations of a batch's partition, and which one it is of, -1 if of none of them.
func (t *Taken) find(writer string, v *View) ([]incarnation, int) {
	list := t.partitions[partitionOf{writer, string(v.Source), v.Partition}]
	for i := len(list) - 1; i >= 0; i-- {
		if list[i].rewinds == v.Rewinds && string(list[i].topicID[:]) == string(pad(v.TopicID)) {
			return list, i
		}
	}
	return list, -1
}

// pad makes an id 16 bytes long.
func pad(id []byte) []byte {
	if len(id) == 16 {
		return id
	}
	var padded [16]byte
	copy(padded[:], id)
	return padded[:]
}

// Merge is Add under other names: rename says by which writer what o has came, and whether it is to be taken at all.
func (t *Taken) Merge(o *Taken, rename func(writer, source string, partition int32) (string, bool)) {
	for key, list := range o.partitions {
		writer, ok := rename(key.writer, key.source, key.partition)
		if !ok {
			continue
		}
		key.writer = writer
		for _, in := range list {
			mine := t.partitions[key]
			i := slices.IndexFunc(mine, func(m incarnation) bool { return m.topicID == in.topicID && m.rewinds == in.rewinds })
			if i < 0 {
				mine = append(mine, in)
				if len(mine) > incarnations {
					mine = slices.Delete(mine, 0, 1)
				}
				t.partitions[key] = mine
				continue
			}
			mine[i].next = max(mine[i].next, in.next)
		}
	}
}

// Add takes whatever o has taken, too.
func (t *Taken) Add(o *Taken) {
	t.Merge(o, func(writer, _ string, _ int32) (string, bool) { return writer, true })
}

// Ahead is where one Taken knows of more rows than another.
type Ahead struct {
	Writer, Source string
	Partition      int32
	TopicID        [16]byte
	Rewinds        uint32
	Next           int64
}

// Ahead returns where t has taken rows that o has not.
func (t *Taken) Ahead(o *Taken) (out []Ahead) {
	for key, list := range t.partitions {
		for _, in := range list {
			i := slices.IndexFunc(o.partitions[key], func(m incarnation) bool { return m.topicID == in.topicID && m.rewinds == in.rewinds })
			if i < 0 && in.next > 0 || i >= 0 && o.partitions[key][i].next < in.next {
				out = append(out, Ahead{key.writer, key.source, key.partition, in.topicID, in.rewinds, in.next})
			}
		}
	}
	return out
}

// Next is the offset behind the rows taken of a partition of an incarnation of its topic, whatever the writer; without a join.
func (t *Taken) Next(partition int32, topicID []byte) (next int64) {
	for key, list := range t.partitions {
		for _, in := range list {
			if key.partition == partition && in.topicID == [16]byte(pad(topicID)) {
				next = max(next, in.next)
			}
		}
	}
	return next
}

// Clone returns a copy.
func (t *Taken) Clone() *Taken {
	c := &Taken{partitions: make(map[partitionOf][]incarnation, len(t.partitions))}
	for key, list := range t.partitions {
		c.partitions[key] = slices.Clone(list)
	}
	return c
}

// Proto returns what a checkpoint keeps of it: by <writer>/<source>/<partition>, older incarnations with /1, /2, ... behind it,
// the newer the lower.
func (t *Taken) Proto() map[string]*eventv1.Taken {
	out := make(map[string]*eventv1.Taken, len(t.partitions))
	for key, list := range t.partitions {
		name := key.writer + "/" + key.source + "/" + strconv.FormatInt(int64(key.partition), 10)
		for i, in := range list {
			at := name
			if age := len(list) - 1 - i; age > 0 {
				at += "/" + strconv.Itoa(age)
			}
			out[at] = &eventv1.Taken{TopicId: slices.Clone(in.topicID[:]), Rewinds: in.rewinds, NextOffset: in.next}
		}
	}
	return out
}

// TakenOf is the reverse of Proto.
func TakenOf(m map[string]*eventv1.Taken) (*Taken, error) {
	type aged struct {
		age int
		incarnation
	}
	byKey := map[partitionOf][]aged{}
	for name, in := range m {
		parts := strings.Split(name, "/")
		bad := fmt.Errorf("what was taken: %q is not <writer>/<source>/<partition>", name)
		if len(parts) != 3 && len(parts) != 4 {
			return nil, bad
		}
		partition, err := strconv.ParseInt(parts[2], 10, 32)
		if err != nil {
			return nil, bad
		}
		age := 0
		if len(parts) == 4 {
			if age, err = strconv.Atoi(parts[3]); err != nil {
				return nil, bad
			}
		}
		key := partitionOf{parts[0], parts[1], int32(partition)}
		byKey[key] = append(byKey[key], aged{age, incarnation{[16]byte(pad(in.GetTopicId())), in.GetRewinds(), in.GetNextOffset()}})
	}
	t := NewTaken()
	for key, list := range byKey {
		slices.SortFunc(list, func(a, b aged) int { return cmp.Compare(b.age, a.age) })
		for _, a := range list {
			t.partitions[key] = append(t.partitions[key], a.incarnation)
		}
	}
	return t, nil
}

// DropFirst takes the first n rows out of the selection, which then is in scratch or newer memory: the message's bytes are not touched. It
// returns how many of them were selected, and the scratch for the next time.
func (v *View) DropFirst(n int, scratch []byte) (dropped int, _ []byte) {
	if n == 0 {
		return 0, scratch
	}
	scratch = v.OwnSelection(scratch)
	for i := range (n + 7) / 8 {
		mask := byte(0xff)
		if rest := n - i*8; rest < 8 {
			mask = 1<<rest - 1
		}
		dropped += bits.OnesCount8(v.Selection[i] & mask)
		v.Selection[i] &^= mask
	}
	v.Selected -= dropped
	return dropped, scratch
}

// DropFrom is DropFirst for the rows from n on.
func (v *View) DropFrom(n int, scratch []byte) (dropped int, _ []byte) {
	if n >= v.Rows {
		return 0, scratch
	}
	scratch = v.OwnSelection(scratch)
	for i := n / 8; i < len(v.Selection); i++ {
		mask := byte(0xff)
		if i == n/8 {
			mask <<= n % 8
		}
		dropped += bits.OnesCount8(v.Selection[i] & mask)
		v.Selection[i] &^= mask
	}
	v.Selected -= dropped
	return dropped, scratch
}

// OwnSelection gives the view a selection that may be written to, in scratch or newer memory, and returns that.
func (v *View) OwnSelection(scratch []byte) []byte {
	n := (v.Rows + 7) / 8
	if cap(scratch) < n {
		scratch = make([]byte, n)
	}
	scratch = scratch[:n]
	if len(v.Selection) > 0 {
		copy(scratch, v.Selection)
	} else {
		for i := range scratch {
			scratch[i] = 0xff
		}
		if tail := v.Rows % 8; tail != 0 {
			scratch[n-1] = 1<<tail - 1
		}
	}
	v.Selection = scratch
	return scratch
}
