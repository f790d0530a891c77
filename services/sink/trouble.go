package sink

import (
	"errors"
	"sync"

	"google.golang.org/protobuf/types/known/timestamppb"

	stagev1 "sluice/gen/sluice/stage/v1"
)

// trouble is what a lane waits for: in reading, in sending. The status shows both.
type trouble struct {
	unit unit
	mu   sync.Mutex
	errs [2]error // guarded by mu
}

func (t *trouble) reading(err error) { t.set(0, err) }
func (t *trouble) sending(err error) { t.set(1, err) }

func (t *trouble) set(i int, err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.errs[i] = err
	all := errors.Join(t.errs[0], t.errs[1])
	t.unit.Report(func(s *stagev1.UnitStatus) {
		if all == nil {
			s.Condition, s.LastError = stagev1.UnitStatus_RUNNING, ""
			return
		}
		s.Condition, s.LastError, s.LastErrorTime = stagev1.UnitStatus_WAITING, all.Error(), timestamppb.Now()
	})
}
