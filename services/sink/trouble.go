package sink

import (
	"errors"
	"sync"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	eventv1 "sluice/gen/sluice/event/v1"
	stagev1 "sluice/gen/sluice/stage/v1"
)

// trouble is what a lane waits for: in reading, in sending. The status shows both.
type trouble struct {
	unit unit
	mu   sync.Mutex
	errs [2]error // guarded by mu
	// What was found wrong once and healed, guarded by mu. It is shown as long as nothing else is.
	healed *eventv1.Healing
}

func (t *trouble) reading(err error) { t.set(0, err) }
func (t *trouble) sending(err error) { t.set(1, err) }

// healing is told of what was healed. The healing is not changed afterwards.
func (t *trouble) healing(h *eventv1.Healing) {
	t.mu.Lock()
	t.healed = h
	t.mu.Unlock()
	t.set(1, nil)
}

func (t *trouble) set(i int, err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.errs[i] = err
	all := errors.Join(t.errs[0], t.errs[1])
	t.unit.Report(func(s *stagev1.UnitStatus) {
		if all == nil {
			s.Condition, s.LastError = stagev1.UnitStatus_RUNNING, t.healed.GetWhat()
			if t.healed != nil {
				s.LastErrorTime = timestamppb.New(time.UnixMilli(t.healed.GetMs()))
			}
			return
		}
		s.Condition, s.LastError, s.LastErrorTime = stagev1.UnitStatus_WAITING, all.Error(), timestamppb.Now()
	})
}
