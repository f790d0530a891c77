// Package lanes shares the lanes of all pipelines of a stage among the stage's live instances and
// runs a function for each lane that this instance owns.
//
// How: every instance keeps a member record in the bucket sluice_leases and renews it each third of
// the lease time. A lane's record names the session of the member that owns it. An instance whose
// record has not changed for the lease time, by the observer's own monotonic clock, is dead: an
// observer removes its record by compare-and-set, after which the dead one cannot renew and its
// lanes are free. Clocks of different machines are never compared.
//
// Guaranteed: in one process a lane's function never runs twice at once; shares differ by at most
// one lane and no lane moves without need; lanes of an instance that was killed are taken over within
// the lease time and a second, those of one that stopped in good order at once; an instance that
// could not renew for most of the lease time, or finds that it was paused, cancels its lanes with
// ErrLost before others may take them.
//
// Not guaranteed: that nobody else believes to own the lane. A paused process may wake up and write
// before it has looked at a clock. Correctness never depends on leases: what a lane appends is fenced
// (package fencedlog), what it checkpoints is compare-and-set.
package lanes

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"go.opentelemetry.io/otel/metric"

	controlv1 "sluice/gen/sluice/control/v1"
	stagev1 "sluice/gen/sluice/stage/v1"
	"sluice/libs/spec"
)

// Bucket holds the member and lane records of all stages. It is made when missing; one that is there,
// with more replicas for instance, is used as it is.
const Bucket = "sluice_leases"

// DefaultLeaseTime is how long an instance may be silent before its lanes are given to others.
const DefaultLeaseTime = 3 * time.Second

// What context.Cause says about the end of a Func's context.
var (
	// ErrLost: the lease is gone, or cannot be renewed. Stop at once; another may be at work already.
	ErrLost = errors.New("lease lost")
	// ErrRebalance: another instance is to have the lane. Finish what is in hand.
	ErrRebalance = errors.New("lane moves to another instance")
	// ErrChanged: the pipeline's record changed. Finish what is in hand; Func is called again with the new one.
	ErrChanged = errors.New("pipeline changed")
	// ErrUnwanted: the pipeline does not want this stage any more. Finish what is in hand.
	ErrUnwanted = errors.New("pipeline has no use for this lane")
	// ErrStopping: the instance drains or stops. Finish what is in hand.
	ErrStopping = errors.New("instance stops")
)

// Func does the work of a lane until ctx ends, then stops in good order and returns; after ErrLost at
// once. An error before the end of ctx is shown in the lane's status and Func is called again after a
// back-off from 0.2 to 5 s. nil before the end of ctx says that there is nothing to do by this record:
// the lane stays owned, and Func is called again when the record changes.
type Func func(ctx context.Context, l *Lane) error

// Registry is what lanes needs of package registry.
type Registry interface {
	// Watch calls changed with the whole picture at the start and after each change, until ctx ends.
	Watch(ctx context.Context, changed func(map[string]*controlv1.PipelineRecord)) error
	PutStatus(ctx context.Context, s *stagev1.UnitStatus) error
	Statuses(ctx context.Context, id string) ([]*stagev1.UnitStatus, error)
	// Latest returns a record as it is now, asked of the leader.
	Latest(ctx context.Context, id string) (*controlv1.PipelineRecord, error)
}

// Same tells whether a pipeline still has the lanes that a record says. Events may go to other lanes as soon as it has not; whoever wants to purge a log by
// what the record's lanes have read must read that first and ask this then.
//
// Without a registry nobody can change the lanes: they are the same.
func Same(reg Registry, rec *controlv1.PipelineRecord) func(context.Context) (bool, error) {
	if reg == nil {
		return func(context.Context) (bool, error) { return true, nil }
	}
	return func(ctx context.Context) (bool, error) {
		now, err := reg.Latest(ctx, rec.GetSpec().GetId())
		if err != nil {
			return false, err
		}
		return now.GetUid() == rec.GetUid() && spec.CurrentLanes(now) == spec.CurrentLanes(rec), nil
	}
}

// Config says what is shared, among whom, and what to run.
type Config struct {
	// Stage is ingest, dedup, join or sink. Instances of one stage share its lanes.
	Stage string
	// Instance is unique among the live instances: a token of letters, digits, - and _.
	Instance string
	JS       jetstream.JetStream
	Registry Registry
	Log      *slog.Logger
	// Meter counts the changes of lanes; nil: nobody.
	Meter metric.Meter
	// Wanted tells whether this stage runs a pipeline, as its record is now.
	Wanted func(*controlv1.PipelineRecord) bool
	Run    Func
	// LeaseTime; 0 is DefaultLeaseTime. The same in all instances of a stage.
	LeaseTime time.Duration
}

// Manager owns this instance's share of the lanes. It is a service.Stage.
type Manager struct {
	cfg     Config
	log     *slog.Logger
	metrics *metrics
	process string // begins the session ids of this process
	wake    chan struct{}
	events  chan event
	exits   chan *slot
	rewatch chan struct{}

	// Owned by the loop.
	kv       jetstream.KeyValue // nil until the bucket is there
	sessions int                // number of sessions begun
	session  *session           // nil while not a member
	joinAt   time.Time          // not before
	view     *view
	since    time.Time // the view is from watchers opened after this
	heard    time.Time // when the watcher last said something
	stopping bool

	mu       sync.Mutex
	records  map[string]*controlv1.PipelineRecord // guarded by mu; nil until the registry has spoken
	slots    map[laneID]*slot                     // guarded by mu; changed by the loop only
	active   bool                                 // guarded by mu; Run runs
	draining bool                                 // guarded by mu; wished for by Drain
	drained  bool                                 // guarded by mu; the loop has seen draining and owns nothing
	changed  chan struct{}                        // guarded by mu; closed and made anew when drained or active change
}

// New makes a manager; Run sets it to work.
func New(cfg Config) *Manager {
	if cfg.LeaseTime == 0 {
		cfg.LeaseTime = DefaultLeaseTime
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.Wanted == nil {
		cfg.Wanted = func(r *controlv1.PipelineRecord) bool {
			return r.GetDesired() != controlv1.DesiredState_DELETING
		}
	}
	var nonce [6]byte
	_, _ = rand.Read(nonce[:]) // never fails since Go 1.24
	return &Manager{
		cfg:     cfg,
		log:     cfg.Log.With("stage", cfg.Stage),
		metrics: newMetrics(cfg.Meter, cfg.Stage),
		process: hex.EncodeToString(nonce[:]),
		wake:    make(chan struct{}, 1),
		events:  make(chan event, 256),
		exits:   make(chan *slot),
		rewatch: make(chan struct{}, 1),
		view:    newView(),
		slots:   map[laneID]*slot{},
		changed: make(chan struct{}),
	}
}

// The times that follow from the lease time.
func (m *Manager) renewal() time.Duration { return m.cfg.LeaseTime / 3 }
func (m *Manager) tick() time.Duration    { return m.cfg.LeaseTime / 12 }

// hold is how long a lease is trusted after the last renewal was sent. It ends before any observer
// can have seen nothing for the lease time, since observers hear of a renewal after it was sent.
func (m *Manager) hold() time.Duration { return m.cfg.LeaseTime * 5 / 6 }

// laneKey is the key of a lane's record.
func (m *Manager) laneKey(id laneID) string {
	return fmt.Sprintf("%s.lane.%s.%d", m.cfg.Stage, id.pipeline, id.index)
}

func (m *Manager) memberKey(instance string) string {
	return m.cfg.Stage + ".members." + instance
}

// poke makes the loop look again.
func (m *Manager) poke() {
	select {
	case m.wake <- struct{}{}:
	default:
	}
}

// setRecords takes the registry's picture.
func (m *Manager) setRecords(records map[string]*controlv1.PipelineRecord) {
	m.mu.Lock()
	m.records = records
	if m.records == nil {
		m.records = map[string]*controlv1.PipelineRecord{}
	}
	m.mu.Unlock()
	m.poke()
}
