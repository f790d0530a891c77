package service

import (
	"context"
	"fmt"
	"strings"
	"sync"

	"golang.org/x/sync/errgroup"

	stagev1 "sluice/gen/sluice/stage/v1"
)

// stageServer serves StageService for all stages of the process: one in a service of its own,
// several in standalone.
type stageServer struct {
	stagev1.UnimplementedStageServiceServer
	instance string

	mu       sync.Mutex
	stages   []Stage // guarded by mu; grows while services are built
	draining bool    // guarded by mu
}

func (s *stageServer) add(st Stage) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.stages = append(s.stages, st)
}

func (s *stageServer) list() (stages []Stage, draining bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]Stage(nil), s.stages...), s.draining
}

// knows tells whether there is a pipeline, as far as any stage can tell.
func (s *stageServer) knows(pipeline string) bool {
	stages, _ := s.list()
	told := false
	for _, stage := range stages {
		if k, ok := stage.(Knower); ok {
			if k.Knows(pipeline) {
				return true
			}
			told = true
		}
	}
	return !told
}

func (s *stageServer) setDraining(v bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.draining = v
}

func (s *stageServer) GetStatus(_ context.Context, req *stagev1.GetStatusRequest) (*stagev1.GetStatusResponse, error) {
	stages, draining := s.list()
	resp := &stagev1.GetStatusResponse{Instance: s.instance, Draining: draining}
	names := make([]string, len(stages))
	for i, st := range stages {
		names[i] = st.Name()
		resp.Units = append(resp.Units, st.Status(req.GetPipeline())...)
	}
	resp.Stage = strings.Join(names, ",")
	return resp, nil
}

func (s *stageServer) Drain(ctx context.Context, _ *stagev1.DrainRequest) (*stagev1.DrainResponse, error) {
	stages, _ := s.list()
	s.setDraining(true)
	g, ctx := errgroup.WithContext(ctx)
	for _, st := range stages {
		g.Go(func() error {
			if err := st.Drain(ctx); err != nil {
				return fmt.Errorf("drain %s: %w", st.Name(), err)
			}
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		return nil, err
	}
	return &stagev1.DrainResponse{}, nil
}

func (s *stageServer) Undrain(context.Context, *stagev1.UndrainRequest) (*stagev1.UndrainResponse, error) {
	stages, _ := s.list()
	for _, st := range stages {
		st.Undrain()
	}
	s.setDraining(false)
	return &stagev1.UndrainResponse{}, nil
}

func (s *stageServer) Checkpoint(ctx context.Context, req *stagev1.CheckpointRequest) (*stagev1.CheckpointResponse, error) {
	stages, _ := s.list()
	resp := &stagev1.CheckpointResponse{}
	for _, st := range stages {
		n, err := st.Checkpoint(ctx, req.GetPipeline())
		resp.Units += uint32(n)
		if err != nil {
			return nil, fmt.Errorf("checkpoint %s: %w", st.Name(), err)
		}
	}
	return resp, nil
}
