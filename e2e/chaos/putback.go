//go:build unix

package main

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"

	"sluice/libs/checkpoint"
	"sluice/libs/fencedlog"
	"sluice/libs/receipts"
)

// earlier is a copy of NATS' store.
type earlier struct {
	dir      string
	settings Settings // of the pipeline then
	used     bool     // it was put back once
}

// putBack ends the services and NATS, half of the time in good order, and puts the copy back that was made at one of these before, or some of its streams and buckets. Sometimes,
// and at first, it makes one instead.
func (s *Storm) putBack(f Fault) error {
	services := s.stack.Services()
	var errs []error
	for _, p := range services {
		if f.Pick%2 == 0 {
			errs = append(errs, p.Kill())
			continue
		}
		if code, err := p.Stop(); err != nil || code != 0 {
			s.stack.complain("%s does not stop in good order: exit code %d: %v", p.Name, code, err)
		}
	}
	errs = append(errs, s.stack.nats.Kill())
	if err := errors.Join(errs...); err != nil {
		return err
	}
	store := filepath.Join(s.stack.dir, NATS)
	// Parts of one copy that are put back one after the other are several losses of a log before the first is healed, which lanes stand still for.
	if s.earlier == nil || f.Pick%3 == 0 || s.parts && s.earlier.used {
		if s.earlier != nil {
			errs = append(errs, os.RemoveAll(s.earlier.dir))
		}
		s.earlier = &earlier{filepath.Join(s.stack.dir, fmt.Sprintf("nats-of-step-%d", s.step)), s.Settings(), false}
		errs = append(errs, os.CopyFS(s.earlier.dir, os.DirFS(store)))
		s.say("copied NATS' store")
	} else if s.parts {
		for _, name := range s.some() {
			at := filepath.Join("jetstream", "$G", "streams", name)
			errs = append(errs, os.RemoveAll(filepath.Join(store, at)), os.CopyFS(filepath.Join(store, at), os.DirFS(filepath.Join(s.earlier.dir, at))))
			s.say("put %s of %s back", name, filepath.Base(s.earlier.dir))
		}
		s.earlier.used = true
	} else {
		errs = append(errs, os.RemoveAll(store), os.CopyFS(store, os.DirFS(s.earlier.dir)))
		s.mu.Lock()
		s.settings = s.earlier.settings
		s.mu.Unlock()
		s.say("put %s back", filepath.Base(s.earlier.dir))
	}
	errs = append(errs, s.stack.nats.Start())
	for _, p := range services {
		errs = append(errs, p.Start())
	}
	return errors.Join(errs...)
}

// some are one or more of the pipeline's streams and buckets, as seed and step say.
func (s *Storm) some() (names []string) {
	all := []string{"KV_" + checkpoint.Bucket(pipeline), receipts.Stream(pipeline)}
	for _, stage := range logsOf(s.stack.order) {
		all = append(all, fencedlog.Log{Pipeline: pipeline, Stage: stage}.Stream())
	}
	r := rand.New(rand.NewPCG(s.seed, uint64(s.step)))
	for len(names) == 0 {
		for _, name := range all {
			if r.IntN(2) == 0 {
				names = append(names, name)
			}
		}
	}
	return names
}
