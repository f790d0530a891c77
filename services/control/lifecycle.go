package control

import (
	"context"

	"google.golang.org/grpc/codes"

	controlv1 "sluice/gen/sluice/control/v1"
)

func (s *Service) get(ctx context.Context, id string) (*controlv1.PipelineRecord, uint64, error) {
	if id == "" {
		return nil, 0, codef(codes.InvalidArgument, "id: is missing: give the pipeline's id")
	}
	rec, rev, err := s.registry.Get(ctx, id)
	return rec, rev, stored(ctx, err)
}

// alive refuses what cannot be done to a pipeline that is going.
func alive(rec *controlv1.PipelineRecord) error {
	if rec.Desired == controlv1.DesiredState_DELETING {
		return codef(codes.FailedPrecondition, "pipeline %q is being deleted", rec.Spec.GetId())
	}
	return nil
}

// Get returns one pipeline.
func (s *Service) Get(ctx context.Context, req *controlv1.GetRequest) (*controlv1.GetResponse, error) {
	rec, _, err := s.get(ctx, req.GetId())
	if err != nil {
		return nil, err
	}
	rec.Guarantee = s.guarantees.now(rec)
	return &controlv1.GetResponse{Pipeline: rec}, nil
}

// List returns all pipelines by id, and what pipelines without a record have left.
func (s *Service) List(ctx context.Context, _ *controlv1.ListRequest) (*controlv1.ListResponse, error) {
	all, err := s.registry.List(ctx)
	if err != nil {
		return nil, stored(ctx, err)
	}
	for _, rec := range all {
		rec.Guarantee = s.guarantees.now(rec)
	}
	orphans, err := s.orphans(ctx)
	if err != nil {
		return nil, stored(ctx, err)
	}
	return &controlv1.ListResponse{Pipelines: all, Orphans: orphans}, nil
}

// Pause lets a pipeline stop reading from Kafka. It is no error when it is paused.
func (s *Service) Pause(ctx context.Context, req *controlv1.PauseRequest) (*controlv1.PauseResponse, error) {
	rec, err := s.want(ctx, req.GetId(), controlv1.DesiredState_PAUSED)
	if err != nil {
		return nil, err
	}
	return &controlv1.PauseResponse{Pipeline: rec}, nil
}

// Resume lets a paused pipeline go on. It is no error when it runs.
func (s *Service) Resume(ctx context.Context, req *controlv1.ResumeRequest) (*controlv1.ResumeResponse, error) {
	rec, err := s.want(ctx, req.GetId(), controlv1.DesiredState_RUNNING)
	if err != nil {
		return nil, err
	}
	return &controlv1.ResumeResponse{Pipeline: rec}, nil
}

func (s *Service) want(ctx context.Context, id string, desired controlv1.DesiredState) (*controlv1.PipelineRecord, error) {
	rec, err := s.change(ctx, id, func(rec *controlv1.PipelineRecord) (bool, error) {
		if err := alive(rec); err != nil {
			return false, err
		}
		changed := rec.Desired != desired
		rec.Desired = desired
		return changed, nil
	})
	if err != nil {
		return nil, err
	}
	s.log.Info("pipeline wanted", "pipeline", id, "desired", desired.String())
	return rec, nil
}
