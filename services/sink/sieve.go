package sink

import (
	"sluice/libs/batch"
	"sluice/libs/fencedlog"
)

// sieve leaves of each message the rows that belong to a lane's next block: not those that were taken before, and, where a block that
// was being sent has lost its messages, not those that were not in it.
type sieve struct {
	progress *progress
	upTo     *progress // nil: no bound
	memory   []byte
}

// newSieve begins at a snapshot. upTo is nil but for a block whose messages are lost.
func newSieve(log fencedlog.Log, at snapshot, upTo *snapshot) (*sieve, error) {
	var s sieve
	var err error
	if s.progress, err = at.progress(log); err != nil {
		return nil, err
	}
	if upTo != nil {
		if s.upTo, err = upTo.progress(log); err != nil {
			return nil, err
		}
	}
	return &s, nil
}

// broken tells that a message does not follow from what was taken, or from the block that was being sent, whose messages then do not come again.
func (s *sieve) broken(msg *fencedlog.Message) (bool, error) {
	broken, err := s.progress.broken(msg)
	if err != nil || broken || s.upTo == nil {
		return broken, err
	}
	return s.upTo.broken(msg)
}

// sift takes rows out of the view's selection, and tells how many of them because they were taken before. It changes nothing else:
// when the message is part of the block, progress admits it.
func (s *sieve) sift(msg *fencedlog.Message, v *batch.View) (again int, err error) {
	before, err := s.progress.before(msg, v)
	if err != nil {
		return 0, err
	}
	again, s.memory = v.DropFirst(before, s.memory)
	if s.upTo == nil {
		return again, nil
	}
	in, err := s.upTo.before(msg, v)
	if err != nil {
		return 0, err
	}
	if in < v.Rows {
		s.memory = v.OwnSelection(s.memory)
		for row := in; row < v.Rows; row++ {
			if v.Selects(row) {
				v.Selection[row/8] &^= 1 << (row % 8)
				v.Selected--
			}
		}
	}
	return again, nil
}
