package batch

import "google.golang.org/protobuf/encoding/protowire"

// Progress is event.v1.Progress without its pointers: how far the event time of a Kafka partition has come.
type Progress struct {
	MaxEventMS  int64 // largest event time so far, if HasMax
	HasMax      bool
	IdleSinceMS int64 // 0: there is more to read
	Partitions  int   // of the topic; 0 = this batch says nothing of progress
	TellsDedup  bool  // it says, too, how far the time of dedup has come
	MaxDedupMS  int64 // largest dedup time so far, if HasDedup
	HasDedup    bool
	UntimedMS   int64 // since when no event had a dedup time, though there were some; 0: there are such
}

func (p Progress) append(b []byte) []byte {
	if p.HasMax { // also when it is 0
		b = protowire.AppendVarint(protowire.AppendTag(b, 1, protowire.VarintType), uint64(p.MaxEventMS))
	}
	b = appendVarint(b, 2, uint64(p.IdleSinceMS))
	b = appendVarint(b, 3, uint64(p.Partitions))
	if p.HasDedup {
		b = protowire.AppendVarint(protowire.AppendTag(b, 4, protowire.VarintType), uint64(p.MaxDedupMS))
	}
	if p.TellsDedup {
		b = appendVarint(b, 5, 1)
	}
	return appendVarint(b, 6, uint64(p.UntimedMS))
}

func (v *View) setProgress(b []byte) error {
	return eachField(b, func(number protowire.Number, x uint64, _ []byte) {
		switch number {
		case 1:
			v.Progress.MaxEventMS, v.Progress.HasMax = int64(x), true
		case 2:
			v.Progress.IdleSinceMS = int64(x)
		case 3:
			v.Progress.Partitions = int(uint32(x))
		case 4:
			v.Progress.MaxDedupMS, v.Progress.HasDedup = int64(x), true
		case 5:
			v.Progress.TellsDedup = x != 0
		case 6:
			v.Progress.UntimedMS = int64(x)
		}
	})
}

// joins tells whether the batch uses what FormatJoin has.
func (v *View) joins() bool {
	return len(v.Source) > 0 || len(v.JoinKeys) > 0 || len(v.EventTimes) > 0 || len(v.Origins) > 0 || len(v.JoinPast) > 0 || v.Progress != (Progress{}) ||
		v.Tally.Matched|v.Tally.Unmatched|v.Tally.Late|v.Tally.Dropped != 0
}
