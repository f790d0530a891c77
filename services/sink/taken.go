package sink

import (
	"fmt"
	"maps"

	"google.golang.org/protobuf/proto"

	eventv1 "sluice/gen/sluice/event/v1"
	"sluice/libs/batch"
	"sluice/libs/fencedlog"
	"sluice/libs/fold"
)

// snapshot is how far a lane has come with the records that its rows were made of, as its position keeps it. Its maps
// are never changed.
type snapshot struct {
	taken     map[string]*eventv1.Taken // see batch.Taken
	positions map[string]string         // by writer of a join's log, whose messages come again as they were
	made      map[string]int64          // see SinkPosition.made_ns
}

// since is the part of s that is not in earlier.
func (s snapshot) since(earlier snapshot) snapshot {
	out := snapshot{map[string]*eventv1.Taken{}, map[string]string{}, map[string]int64{}}
	for at, t := range s.taken {
		if !proto.Equal(t, earlier.taken[at]) {
			out.taken[at] = t
		}
	}
	for writer, position := range s.positions {
		if position != earlier.positions[writer] {
			out.positions[writer], out.made[writer] = position, s.made[writer]
		}
	}
	return out
}

// with is s brought up to date by what since returned.
func (s snapshot) with(later snapshot) snapshot {
	out := snapshot{maps.Clone(s.taken), maps.Clone(s.positions), maps.Clone(s.made)}
	if out.taken == nil {
		out.taken = map[string]*eventv1.Taken{}
	}
	if out.positions == nil {
		out.positions = map[string]string{}
	}
	if out.made == nil {
		out.made = map[string]int64{}
	}
	maps.Copy(out.taken, later.taken)
	maps.Copy(out.positions, later.positions)
	maps.Copy(out.made, later.made)
	return out
}

// progress tells messages and rows that a lane has taken from those that it has not. Only after a log has lost its tail and was
// filled again do any come a second time.
type progress struct {
	joined    bool // the log is a join's
	taken     *batch.Taken
	positions map[string]string
	made      map[string]int64
}

func (s snapshot) progress(log fencedlog.Log) (*progress, error) {
	taken, err := batch.TakenOf(s.taken)
	if err != nil {
		return nil, fmt.Errorf("the lane's position: %w", err)
	}
	p := &progress{joined: log.Stage == fencedlog.Join, taken: taken, positions: maps.Clone(s.positions), made: maps.Clone(s.made)}
	if p.positions == nil {
		p.positions = map[string]string{}
	}
	if p.made == nil {
		p.made = map[string]int64{}
	}
	return p, nil
}

func (p *progress) snapshot() snapshot {
	return snapshot{p.taken.Proto(), maps.Clone(p.positions), maps.Clone(p.made)}
}

// before tells how many rows at the front of a message were taken.
func (p *progress) before(msg *fencedlog.Message, v *batch.View) (int, error) {
	if !p.joined {
		return p.taken.Before(msg.Writer, v), nil
	}
	again, err := fold.Reaches(p.positions[msg.Writer], msg.Position)
	if err != nil || !again {
		return 0, err
	}
	return v.Rows, nil
}

// admit takes all rows of a message.
func (p *progress) admit(msg *fencedlog.Message, v *batch.View) error {
	if !p.joined {
		p.taken.Admit(msg.Writer, v)
		return nil
	}
	again, err := fold.Reaches(p.positions[msg.Writer], msg.Position)
	if err == nil && !again {
		p.positions[msg.Writer], p.made[msg.Writer] = msg.Position, 0
		if msg.Link.Input.Sequence > 0 {
			p.made[msg.Writer] = msg.Link.Input.Time.UnixNano()
		}
	}
	return err
}

// broken tells that a join's message does not follow from what was taken: see fold.Broken.
func (p *progress) broken(msg *fencedlog.Message) (bool, error) {
	if !p.joined {
		return false, nil
	}
	return fold.Broken(p.positions[msg.Writer], p.made[msg.Writer], *msg)
}

// goOnFrom makes a message that is broken one that is not: what its writer had put out beyond the message that it follows is to come again.
func (p *progress) goOnFrom(msg *fencedlog.Message) error {
	last := p.positions[msg.Writer]
	if msg.Link.After != "" {
		// Of a block in doubt, which is found out about before anything else, less may have been taken than the log still has.
		if before, err := fold.Reaches(msg.Link.After, last); err != nil || before {
			return err
		}
	}
	delete(p.positions, msg.Writer)
	delete(p.made, msg.Writer)
	if msg.Link.After != "" {
		p.positions[msg.Writer] = msg.Link.After
	}
	return nil
}

// reached tells whether all that s has was taken.
func (p *progress) reached(s snapshot) (bool, error) {
	have := p.taken.Proto()
	for at, t := range s.taken {
		if got := have[at]; got == nil || got.GetNextOffset() < t.GetNextOffset() && got.GetRewinds() == t.GetRewinds() && string(got.GetTopicId()) == string(t.GetTopicId()) {
			return false, nil
		}
	}
	for writer, position := range s.positions {
		if ok, err := fold.Reaches(p.positions[writer], position); err != nil || !ok {
			return false, err
		}
	}
	return true, nil
}
