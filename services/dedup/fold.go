package dedup

import (
	"fmt"
	"time"

	eventv1 "sluice/gen/sluice/event/v1"
	stagev1 "sluice/gen/sluice/stage/v1"
	"sluice/libs/batch"
	"sluice/libs/fencedlog"
	"sluice/services/dedup/internal/window"
)

// fold turns inputs into outputs and state. What it says depends on the inputs alone.
type fold struct {
	set       *window.Set
	eventTime bool

	// Invariant: set and tally are those after the input at covered, and all before it.
	covered       uint64
	coveredTimeNS int64
	tally         batch.Tally
	// published is the input sequence up to which outputs were in the log when the lane was taken.
	published uint64
	// wantWindow is the window to change to before the first output that is not in the log yet.
	wantWindow time.Duration
	// fresh: there is no checkpoint yet that says under which window the outputs are decided.
	fresh bool

	view      batch.View
	selection []byte // scratch for batches that come without one
}

// step takes one input. It returns the output appended to dst, or nil when that is in the log already.
// After an error nothing has changed.
func (f *fold) step(m fencedlog.Message, dst []byte) ([]byte, error) {
	v := &f.view
	if err := v.Parse(m.Data); err != nil {
		return nil, fmt.Errorf("sequence %d: %w", m.Sequence, err)
	}
	taken, duplicates := v.Selected, 0
	if v.Rows > 0 && len(v.Keys) > 0 {
		f.ownSelection()
		n, err := f.set.Admit(window.Batch{
			Writer: m.Writer, ArrivalMS: v.ArrivalMS, Rows: v.Rows,
			Keys: v.Keys, Times: v.Times, Versions: v.Versions, Selection: v.Selection,
		})
		if err != nil {
			return nil, fmt.Errorf("sequence %d: %w", m.Sequence, err)
		}
		duplicates = n
	}
	f.covered, f.coveredTimeNS = m.Sequence, m.Time.UnixNano()
	f.tally.Records += uint64(taken)
	f.tally.Duplicates += uint64(duplicates)
	f.tally.Rows += uint64(taken - duplicates)
	if m.Sequence <= f.published {
		return nil, nil
	}
	v.Selected = taken - duplicates
	switch v.Selected {
	case v.Rows:
		v.Selection = nil
	case 0:
		v.Columns, v.ColumnsSize, v.Compression = nil, 0, eventv1.Compression_COMPRESSION_UNSPECIFIED
	}
	v.Keys, v.Times, v.Versions = nil, nil, nil
	v.InputSequence, v.Tally = m.Sequence, f.tally
	return v.Append(dst), nil
}

// ownSelection gives the view a selection that may be written to. The message's bytes may not: they
// are the client's.
func (f *fold) ownSelection() {
	v := &f.view
	n := (v.Rows + 7) / 8
	if cap(f.selection) < n {
		f.selection = make([]byte, n)
	}
	f.selection = f.selection[:n]
	if len(v.Selection) > 0 {
		copy(f.selection, v.Selection)
	} else {
		for i := range f.selection {
			f.selection[i] = 0xff
		}
		if tail := v.Rows % 8; tail != 0 {
			f.selection[n-1] = 1<<tail - 1
		}
	}
	v.Selection = f.selection
}

// changesWindow tells that the next input is the first one to be decided under another window than
// the last checkpoint says. That must be on record before its output is.
func (f *fold) changesWindow(m fencedlog.Message) bool {
	return m.Sequence > f.published && (f.fresh || f.set.Window() != f.wantWindow)
}

// manifest says what a checkpoint made now covers.
func (f *fold) manifest() *eventv1.Manifest {
	st := f.set.State()
	m := &eventv1.Manifest{
		CoveredSequence: f.covered, CoveredTimeNs: f.coveredTimeNS, Tally: f.tally.Proto(),
		HorizonMs: st.HorizonMS, WindowMs: f.set.Window().Milliseconds(),
		MaxTimeMs: make(map[string]int64, len(st.Writers)), ArrivalMs: make(map[string]int64, len(st.Writers)),
	}
	for name, w := range st.Writers {
		m.MaxTimeMs[name], m.ArrivalMs[name] = w.MaxMS, w.ArrivalMS
	}
	return m
}

// report shows where the fold is. Counts that the last owner has shown do not go back while its
// outputs are replayed.
func (f *fold) report(u unit, lag uint64) {
	u.Report(func(s *stagev1.UnitStatus) {
		s.Lag = lag
		s.StateKeys, s.StateBytes = uint64(f.set.Len()), uint64(f.set.Bytes())
		if f.tally.Records >= s.GetTally().GetRecords() {
			s.Position, s.Tally = f.covered, f.tally.Proto()
		}
	})
}
