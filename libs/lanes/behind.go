package lanes

import (
	"context"
	"errors"
	"fmt"

	controlv1 "sluice/gen/sluice/control/v1"
)

// ErrBehind says that a pipeline's record is older than one that its stages have worked by.
var ErrBehind = errors.New("the pipeline's record is older than one that was in force")

// NotBehind returns a check for whoever takes over what another has written down: seen is the latest generation of the record that
// it was worked by; 0: not known. Who has an older one must not work by it. Either this instance hears of the new one late, and it comes; or the registry has lost
// it, which the error says, with what to do. Either way it is to be asked again after a while.
//
// Without a registry nobody can change the record.
func NotBehind(reg Registry, rec *controlv1.PipelineRecord) func(ctx context.Context, seen uint64) error {
	return func(ctx context.Context, seen uint64) error {
		if reg == nil || seen <= rec.GetGeneration() {
			return nil
		}
		id := rec.GetSpec().GetId()
		now, err := reg.Latest(ctx, id)
		if err != nil {
			return fmt.Errorf("%w: generation %d, after %d: %w", ErrBehind, rec.GetGeneration(), seen, err)
		}
		if now.GetUid() != rec.GetUid() || now.GetGeneration() >= seen {
			return fmt.Errorf("%w: generation %d, after %d: waiting for the new one", ErrBehind, rec.GetGeneration(), seen)
		}
		return fmt.Errorf("%w: the registry lost its tail: it has generation %d of pipeline %s, and its stages have worked by generation %d; "+
			"the control service puts the lost one back if the pipeline's state bucket has a copy, else apply the pipeline again", ErrBehind, now.GetGeneration(), id, seen)
	}
}
