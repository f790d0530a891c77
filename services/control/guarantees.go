package control

import (
	"context"
	"fmt"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	"google.golang.org/protobuf/proto"

	controlv1 "sluice/gen/sluice/control/v1"
	"sluice/libs/clickhouse"
)

const (
	// parallelTables bounds the tables that are looked at at once, lookTimeout the time for each.
	parallelTables = 4
	lookTimeout    = 5 * time.Second
	// lookAgain is after how long what a look has found to be otherwise is looked at again before it is believed: a table may
	// just be made anew.
	lookAgain = time.Second
)

// guarantees is what the tables promise now. The guarantee in a record is what was found when the pipeline was applied; a table may be made
// anew, altered or given a materialized view at any time after.
type guarantees struct {
	mu sync.Mutex
	of map[string]promised // guarded by mu; by the pipeline's uid
}

type promised struct {
	now        *controlv1.Guarantee // never changed
	generation uint64               // of the record that was looked at
}

// now is what a pipeline's table promises, as far as is known: as last looked at, else as it was applied.
func (g *guarantees) now(rec *controlv1.PipelineRecord) *controlv1.Guarantee {
	g.mu.Lock()
	defer g.mu.Unlock()
	// A record that was changed since has been held against the table by that.
	if h, known := g.of[rec.GetUid()]; known && h.generation >= rec.GetGeneration() {
		return h.now
	}
	return rec.GetGuarantee()
}

func (g *guarantees) keep(rec *controlv1.PipelineRecord, now *controlv1.Guarantee) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.of == nil {
		g.of = map[string]promised{}
	}
	g.of[rec.GetUid()] = promised{now, rec.GetGeneration()}
}

// retain forgets all other pipelines.
func (g *guarantees) retain(records []*controlv1.PipelineRecord) {
	g.mu.Lock()
	defer g.mu.Unlock()
	rest := make(map[string]promised, len(g.of))
	for _, rec := range records {
		if h, known := g.of[rec.GetUid()]; known {
			rest[rec.GetUid()] = h
		}
	}
	g.of = rest
}

// worsened says what a table promises no longer that it promised when its pipeline was applied; "" when it promises as much or more.
func worsened(applied, now *controlv1.Guarantee) string {
	if applied.GetLevel() != controlv1.Guarantee_EXACTLY_ONCE {
		return ""
	}
	if now.GetLevel() != controlv1.Guarantee_EXACTLY_ONCE {
		text := "at least once, no longer exactly once as when it was applied: " + now.GetReason()
		if now.GetRemedy() != "" {
			text += " For exactly once: " + now.GetRemedy()
		}
		return text
	}
	if was, is := applied.GetDeduplicationWindow(), now.GetDeduplicationWindow(); is < was {
		return fmt.Sprintf("exactly once for a shorter time: the last %d blocks are remembered, no longer %d as when it was applied", is, was)
	}
	return ""
}

// watchGuarantees looks at the tables of all pipelines now and every CheckEvery. ClickHouse being away is nothing new to tell: the sink says so, and
// what was known last stays.
func (s *Service) watchGuarantees(ctx context.Context) error {
	next := time.NewTicker(s.config.CheckEvery)
	defer next.Stop()
	for {
		if err := s.lookAtTables(ctx); err != nil && ctx.Err() == nil {
			s.log.Debug("look at the tables of the pipelines", "error", err)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-next.C:
		}
	}
}

func (s *Service) lookAtTables(ctx context.Context) error {
	all, err := s.registry.List(ctx)
	if err != nil {
		return err
	}
	s.guarantees.retain(all)
	seen := &tables{}
	var looking errgroup.Group
	looking.SetLimit(parallelTables)
	for _, rec := range all {
		if rec.GetDesired() == controlv1.DesiredState_DELETING {
			continue
		}
		looking.Go(func() error {
			now := s.lookAtTable(ctx, seen, rec.GetSpec().GetSink().GetClickhouse())
			if now == nil {
				return nil
			}
			if proto.Equal(now, s.guarantees.now(rec)) {
				s.guarantees.keep(rec, now)
				return nil
			}
			if pause(ctx, min(lookAgain, s.config.CheckEvery)) != nil {
				return nil
			}
			if again := s.lookAtTable(ctx, &tables{}, rec.GetSpec().GetSink().GetClickhouse()); again != nil && proto.Equal(now, again) {
				s.guaranteeChanged(rec, now)
			}
			return nil
		})
	}
	_ = looking.Wait() // it has no errors
	lost := map[string]int64{}
	for _, rec := range all {
		if rec.GetDesired() != controlv1.DesiredState_DELETING {
			lost[rec.GetSpec().GetId()] = 0
			if worsened(rec.GetGuarantee(), s.guarantees.now(rec)) != "" {
				lost[rec.GetSpec().GetId()] = 1
			}
		}
	}
	s.metrics.guaranteesLost.Store(&lost)
	return nil
}

// guaranteeChanged takes over what a table promises now, and tells.
func (s *Service) guaranteeChanged(rec *controlv1.PipelineRecord, now *controlv1.Guarantee) {
	before := s.guarantees.now(rec)
	s.guarantees.keep(rec, now)
	words := []any{
		"pipeline", rec.GetSpec().GetId(), "table", clickhouse.TableName(rec.GetSpec().GetSink().GetClickhouse()).String(),
		"guarantee", now.GetLevel().String(), "before", before.GetLevel().String(), "window", now.GetDeduplicationWindow(), "reason", now.GetReason(),
	}
	if worse := worsened(rec.GetGuarantee(), now); worse != "" {
		s.log.Warn("the table no longer guarantees what it did when the pipeline was applied", append(words, "remedy", now.GetRemedy())...)
		return
	}
	s.log.Info("the table's guarantee has changed", words...)
}

// tables are the looks of one round: pipelines that write to the same table by the same means share one, and a server that does not answer is
// not asked for each of its tables.
type tables struct {
	mu    sync.Mutex
	asked map[string]*tableAsked // guarded by mu; by the sink
	away  map[string]bool        // guarded by mu; by the addresses
}

type tableAsked struct {
	once sync.Once
	now  *controlv1.Guarantee // nil: not known
}

// lookAtTable asks for what a table promises; nil when that cannot be told now, as when it is not there.
func (s *Service) lookAtTable(ctx context.Context, seen *tables, sink *controlv1.ClickHouseSink) *controlv1.Guarantee {
	key, err := proto.MarshalOptions{Deterministic: true}.Marshal(sink)
	if err != nil {
		return nil
	}
	server := fmt.Sprint(sink.GetAddr())
	seen.mu.Lock()
	if seen.asked == nil {
		seen.asked, seen.away = map[string]*tableAsked{}, map[string]bool{}
	}
	one := seen.asked[string(key)]
	if one == nil {
		one = &tableAsked{}
		seen.asked[string(key)] = one
	}
	away := seen.away[server]
	seen.mu.Unlock()
	if away {
		return nil
	}
	one.once.Do(func() {
		ctx, cancel := context.WithTimeout(ctx, lookTimeout)
		defer cancel()
		table, err := clickhouse.Describe(ctx, sink)
		switch {
		case err != nil:
			s.log.Debug("look at a table", "table", clickhouse.TableName(sink).String(), "error", err)
			if _, unreachable := refused(err); unreachable {
				seen.mu.Lock()
				seen.away[server] = true
				seen.mu.Unlock()
			}
		case table.Exists:
			one.now = clickhouse.GuaranteeOf(table)
		}
	})
	return one.now
}
