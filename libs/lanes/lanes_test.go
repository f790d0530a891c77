package lanes_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	controlv1 "sluice/gen/sluice/control/v1"
	stagev1 "sluice/gen/sluice/stage/v1"
	"sluice/libs/lanes"
	"sluice/libs/playground/nats/natstest"
	"sluice/libs/registry"
)

// ledger knows who runs which lane, over all instances of a test.
type ledger struct {
	mu      sync.Mutex
	running map[string]map[string]int // lane → instance → calls running
	causes  map[string][]error        // instance → why its lanes ended
	starts  map[string]int            // lane → times begun
	bad     []string
}

func newLedger() *ledger {
	return &ledger{running: map[string]map[string]int{}, causes: map[string][]error{}, starts: map[string]int{}}
}

func (g *ledger) begin(instance, lane string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.running[lane] == nil {
		g.running[lane] = map[string]int{}
	}
	g.running[lane][instance]++
	g.starts[lane]++
	if g.running[lane][instance] > 1 {
		g.bad = append(g.bad, fmt.Sprintf("%s runs %s twice", instance, lane))
	}
}

func (g *ledger) end(instance, lane string, cause error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.running[lane][instance]--; g.running[lane][instance] == 0 {
		delete(g.running[lane], instance)
	}
	g.causes[instance] = append(g.causes[instance], cause)
}

// shares is the number of lanes by instance, and the number of lanes that run in exactly one place.
func (g *ledger) shares() (shares map[string]int, single int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	shares = map[string]int{}
	for _, by := range g.running {
		for instance := range by {
			shares[instance]++
		}
		if len(by) == 1 {
			single++
		}
	}
	return shares, single
}

func (g *ledger) startCount() (n int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, c := range g.starts {
		n += c
	}
	return n
}

func (g *ledger) ended(instance string) []error {
	g.mu.Lock()
	defer g.mu.Unlock()
	return append([]error(nil), g.causes[instance]...)
}

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// A lease time that no pause of a busy machine is as long as, for what must happen without the loss of a lease; and one that
// leaves room for a pause where it is measured that the lease time is respected.
const (
	long     = 30 * time.Second
	measured = 6 * time.Second
)

type instance struct {
	name   string
	m      *lanes.Manager
	cancel context.CancelFunc
	done   chan error
}

func testLog() *slog.Logger {
	if os.Getenv("LANES_LOG") == "" {
		return slog.New(slog.DiscardHandler)
	}
	return slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelDebug}))
}

func work(g *ledger) lanes.Func {
	return func(ctx context.Context, l *lanes.Lane) error {
		name := fmt.Sprintf("%s/%d", l.Pipeline.GetSpec().GetId(), l.Index)
		g.begin(l.Instance, name)
		l.Running()
		<-ctx.Done()
		g.end(l.Instance, name, context.Cause(ctx))
		return ctx.Err()
	}
}

// join starts an instance whose connection goes to url.
func join(t *testing.T, url, name string, change func(*lanes.Config)) *instance {
	t.Helper()
	_, js := natstest.Connect(t, url)
	ctx, cancel := context.WithCancel(t.Context())
	reg, err := registry.Open(ctx, js)
	require.NoError(t, err)
	cfg := lanes.Config{Stage: "dedup", Instance: name, JS: js, Registry: reg, Log: testLog().With("instance", name)}
	change(&cfg)
	i := &instance{name: name, m: lanes.New(cfg), cancel: cancel, done: make(chan error, 1)}
	go func() { i.done <- i.m.Run(ctx) }()
	t.Cleanup(i.stop)
	return i
}

func (i *instance) stop() {
	i.cancel()
	if err, ok := <-i.done; ok && err != nil {
		panic(err)
	}
	select {
	case _, ok := <-i.done:
		_ = ok
	default:
		close(i.done)
	}
}

func create(t *testing.T, url, id string, n int) {
	t.Helper()
	_, js := natstest.Connect(t, url)
	reg, err := registry.Open(t.Context(), js)
	require.NoError(t, err)
	_, err = reg.Create(t.Context(), &controlv1.PipelineRecord{
		Spec: &controlv1.Pipeline{Id: id, Lanes: uint32(n)}, Uid: id + "-1", Generation: 1,
		Desired: controlv1.DesiredState_RUNNING,
	})
	require.NoError(t, err)
}

func change(t *testing.T, url, id string, edit func(*controlv1.PipelineRecord)) {
	t.Helper()
	_, js := natstest.Connect(t, url)
	reg, err := registry.Open(t.Context(), js)
	require.NoError(t, err)
	rec, rev, err := reg.Get(t.Context(), id)
	require.NoError(t, err)
	edit(rec)
	_, err = reg.Update(t.Context(), rec, rev)
	require.NoError(t, err)
}

// eventually waits for the shares, every lane in exactly one place, and says how long it took.
func (g *ledger) eventually(t *testing.T, within time.Duration, lanes int, want ...int) time.Duration {
	t.Helper()
	began := time.Now()
	require.Eventually(t, func() bool {
		shares, single := g.shares()
		if single != lanes || len(shares) != len(want) {
			return false
		}
		left := append([]int(nil), want...)
		for _, n := range shares {
			found := false
			for i, w := range left {
				if w == n {
					left = append(left[:i], left[i+1:]...)
					found = true
					break
				}
			}
			if !found {
				return false
			}
		}
		return true
	}, within, 5*time.Millisecond, "shares want %v", want)
	g.mu.Lock()
	defer g.mu.Unlock()
	require.Empty(t, g.bad)
	return time.Since(began)
}

func TestOneThreeOne(t *testing.T) {
	srv := natstest.New(t)
	url := srv.URL()
	g := newLedger()
	run := func(c *lanes.Config) { c.Run, c.LeaseTime = work(g), long }
	create(t, url, "a", 4)
	create(t, url, "b", 3)
	a := join(t, url, "a", run)
	g.eventually(t, time.Minute, 7, 7)
	b, c := join(t, url, "b", run), join(t, url, "c", run)
	g.eventually(t, time.Minute, 7, 3, 2, 2)
	require.NotContains(t, g.ended("a"), lanes.ErrLost)
	require.Contains(t, g.ended("a"), lanes.ErrRebalance)

	// In good order: at once, far below the lease time.
	b.stop()
	c.stop()
	took := g.eventually(t, long, 7, 7)
	require.Less(t, took, long/2)
	a.stop()
	shares, _ := g.shares()
	require.Empty(t, shares)
}

func TestKilledInstanceIsReplaced(t *testing.T) {
	srv := natstest.New(t)
	g := newLedger()
	run := func(c *lanes.Config) { c.Run, c.LeaseTime = work(g), measured }
	create(t, srv.URL(), "a", 8)
	join(t, srv.URL(), "a", run)
	// The victim is behind a proxy that is cut and never mended: to the others it is killed.
	p := natstest.NewProxy(t, srv.Addr())
	join(t, p.URL(), "b", run)
	g.eventually(t, time.Minute, 8, 4, 4)
	before := len(g.ended("b"))
	p.Cut()
	took := g.eventually(t, time.Minute, 8, 8)
	t.Logf("taken over after %s", took)
	require.Greater(t, took, time.Second, "the lease time was not respected")
	for _, cause := range g.ended("b")[before:] {
		require.ErrorIs(t, cause, lanes.ErrLost)
	}
}

func TestPausedInstanceLosesItsLanesAndComesBack(t *testing.T) {
	srv := natstest.New(t)
	g := newLedger()
	run := func(c *lanes.Config) { c.Run = work(g) }
	create(t, srv.URL(), "a", 5)
	join(t, srv.URL(), "a", run)
	p := natstest.NewProxy(t, srv.Addr())
	join(t, p.URL(), "b", run)
	g.eventually(t, time.Minute, 5, 3, 2)
	before := len(g.ended("b")) // while both were joining, lanes may have moved
	p.Freeze()
	took := g.eventually(t, time.Minute, 5, 5)
	t.Logf("taken over after %s", took)
	lost := g.ended("b")[before:]
	require.NotEmpty(t, lost)
	for _, cause := range lost {
		require.ErrorIs(t, cause, lanes.ErrLost)
	}
	p.Thaw()
	g.eventually(t, time.Minute, 5, 3, 2)
}

// TestNATSRestart: shorter than the lease time, nobody notices.
func TestNATSRestart(t *testing.T) {
	srv := natstest.New(t)
	g := newLedger()
	run := func(c *lanes.Config) { c.Run, c.LeaseTime = work(g), long }
	create(t, srv.URL(), "a", 4)
	join(t, srv.URL(), "a", run)
	join(t, srv.URL(), "b", run)
	g.eventually(t, time.Minute, 4, 2, 2)

	before := g.startCount()
	srv.Restart()
	_, js := natstest.Connect(t, srv.URL())
	reg, err := registry.Open(t.Context(), js)
	require.NoError(t, err)
	// The status bucket was in memory: that all four are there again shows that both are connected.
	require.Eventually(t, func() bool {
		s, err := reg.Statuses(t.Context(), "a")
		return err == nil && len(s) == 4
	}, time.Minute, 20*time.Millisecond)
	g.eventually(t, time.Minute, 4, 2, 2)
	require.Equal(t, before, g.startCount(), "a short restart moved lanes")
}

// TestNATSOutage: longer than the lease time, all stop by themselves, and come back.
func TestNATSOutage(t *testing.T) {
	srv := natstest.New(t)
	g := newLedger()
	run := func(c *lanes.Config) { c.Run = work(g) }
	create(t, srv.URL(), "a", 4)
	join(t, srv.URL(), "a", run)
	join(t, srv.URL(), "b", run)
	g.eventually(t, time.Minute, 4, 2, 2)
	srv.Stop()
	require.Eventually(t, func() bool { s, _ := g.shares(); return len(s) == 0 }, time.Minute, 5*time.Millisecond)
	srv.Start()
	g.eventually(t, time.Minute, 4, 2, 2)
}

func TestStatusIsPublishedAndKept(t *testing.T) {
	srv := natstest.New(t)
	create(t, srv.URL(), "a", 1)
	_, js := natstest.Connect(t, srv.URL())
	reg, err := registry.Open(t.Context(), js)
	require.NoError(t, err)
	unit := func() *stagev1.UnitStatus {
		s, err := reg.Statuses(t.Context(), "a")
		if err != nil || len(s) != 1 {
			return &stagev1.UnitStatus{}
		}
		return s[0]
	}
	fail := make(chan error)
	i := join(t, srv.URL(), "a", func(c *lanes.Config) {
		c.Run = func(ctx context.Context, l *lanes.Lane) error {
			l.Report(func(s *stagev1.UnitStatus) { s.Position = 42; s.Owner = "nobody" })
			select {
			case <-ctx.Done():
				return nil
			case err := <-fail:
				return err
			}
		}
	})
	require.Eventually(t, func() bool { return unit().Condition == stagev1.UnitStatus_RUNNING }, time.Minute, 5*time.Millisecond)
	require.Equal(t, "a", unit().Owner)
	require.EqualValues(t, 42, unit().Position)
	require.Equal(t, "a-1", unit().PipelineUid)
	fail <- errors.New("table is gone")
	require.Eventually(t, func() bool { return unit().LastError == "table is gone" }, time.Minute, 5*time.Millisecond)
	require.Equal(t, stagev1.UnitStatus_WAITING, unit().Condition)
	// It is run again: the back-off ends.
	select {
	case fail <- errors.New("still gone"):
	case <-time.After(time.Minute):
		t.Fatal("not run again")
	}
	i.stop()
	require.Equal(t, stagev1.UnitStatus_STOPPED, unit().Condition)
	require.Empty(t, unit().Owner)

	// The next owner shows the numbers before its function has any.
	join(t, srv.URL(), "b", func(c *lanes.Config) {
		c.Run = func(ctx context.Context, _ *lanes.Lane) error { <-ctx.Done(); return nil }
	})
	require.Eventually(t, func() bool { return unit().Owner == "b" }, time.Minute, 5*time.Millisecond)
	require.EqualValues(t, 42, unit().Position)
	require.Equal(t, stagev1.UnitStatus_STARTING, unit().Condition)
}

func TestPanicIsAnError(t *testing.T) {
	srv := natstest.New(t)
	create(t, srv.URL(), "a", 2)
	g := newLedger()
	once := make(chan struct{}, 1)
	once <- struct{}{}
	i := join(t, srv.URL(), "a", func(c *lanes.Config) {
		c.Run = func(ctx context.Context, l *lanes.Lane) error {
			if l.Index == 1 {
				select {
				case <-once:
					panic("boom")
				default:
				}
			}
			return work(g)(ctx, l)
		}
	})
	g.eventually(t, time.Minute, 2, 2)
	require.Len(t, i.m.Status("a"), 2)
}

func TestRecordChanges(t *testing.T) {
	srv := natstest.New(t)
	create(t, srv.URL(), "a", 2)
	g := newLedger()
	generations := make(chan uint64, 100)
	join(t, srv.URL(), "a", func(c *lanes.Config) {
		c.Wanted = func(r *controlv1.PipelineRecord) bool { return r.Desired == controlv1.DesiredState_RUNNING }
		c.Run = func(ctx context.Context, l *lanes.Lane) error {
			generations <- l.Pipeline.Generation
			return work(g)(ctx, l)
		}
	})
	g.eventually(t, time.Minute, 2, 2)
	change(t, srv.URL(), "a", func(r *controlv1.PipelineRecord) { r.Generation = 2 })
	for seen := uint64(0); seen != 2; {
		select {
		case seen = <-generations:
		case <-time.After(time.Minute):
			t.Fatal("not started anew")
		}
	}
	g.eventually(t, time.Minute, 2, 2)
	require.Contains(t, g.ended("a"), lanes.ErrChanged)

	// What is not wanted ends, says so, since a deletion waits for that, and leaves no lease behind.
	change(t, srv.URL(), "a", func(r *controlv1.PipelineRecord) { r.Desired = controlv1.DesiredState_DELETING })
	require.Eventually(t, func() bool { s, _ := g.shares(); return len(s) == 0 }, time.Minute, 5*time.Millisecond)
	require.Contains(t, g.ended("a"), lanes.ErrUnwanted)
	_, js := natstest.Connect(t, srv.URL())
	reg, err := registry.Open(t.Context(), js)
	require.NoError(t, err)
	require.Eventually(t, func() bool {
		units, err := reg.Statuses(t.Context(), "a")
		return err == nil && len(units) == 2 && !slices.ContainsFunc(units, func(u *stagev1.UnitStatus) bool {
			return u.Condition != stagev1.UnitStatus_STOPPED || u.Owner != ""
		})
	}, 5*time.Second, 10*time.Millisecond)
	kv, err := js.KeyValue(t.Context(), lanes.Bucket)
	require.NoError(t, err)
	require.Eventually(t, func() bool {
		_, err0 := kv.Get(t.Context(), "dedup.lane.a.0")
		_, err1 := kv.Get(t.Context(), "dedup.lane.a.1")
		return errors.Is(err0, jetstream.ErrKeyNotFound) && errors.Is(err1, jetstream.ErrKeyNotFound)
	}, time.Minute, 10*time.Millisecond)
}

func TestDrainUndrainCheckpoint(t *testing.T) {
	srv := natstest.New(t)
	create(t, srv.URL(), "a", 4)
	g := newLedger()
	run := func(c *lanes.Config) {
		c.Run = func(ctx context.Context, l *lanes.Lane) error {
			name := fmt.Sprintf("%s/%d", l.Pipeline.GetSpec().GetId(), l.Index)
			g.begin(l.Instance, name)
			defer func() { g.end(l.Instance, name, context.Cause(ctx)) }()
			for {
				select {
				case <-ctx.Done():
					return nil
				case reply := <-l.Checkpoints():
					if l.Index == 3 {
						reply <- errors.New("no room")
					} else {
						reply <- nil
					}
				}
			}
		}
	}
	a := join(t, srv.URL(), "a", run)
	g.eventually(t, time.Minute, 4, 4)
	n, err := a.m.Checkpoint(t.Context(), "a")
	require.Equal(t, 3, n)
	require.ErrorContains(t, err, "pipeline a lane 3: no room")
	n, err = a.m.Checkpoint(t.Context(), "other")
	require.NoError(t, err)
	require.Zero(t, n)

	b := join(t, srv.URL(), "b", run)
	g.eventually(t, time.Minute, 4, 2, 2)
	require.NoError(t, a.m.Drain(t.Context()))
	shares, _ := g.shares()
	require.Zero(t, shares["a"])
	g.eventually(t, time.Minute, 4, 4)
	require.Empty(t, a.m.Status(""))
	a.m.Undrain()
	g.eventually(t, time.Minute, 4, 2, 2)
	a.stop()
	require.NoError(t, a.m.Drain(t.Context())) // nothing runs: nothing to wait for
	b.stop()
}

func TestSameNameWaits(t *testing.T) {
	srv := natstest.New(t)
	create(t, srv.URL(), "a", 2)
	g, h := newLedger(), newLedger()
	first := join(t, srv.URL(), "a", func(c *lanes.Config) { c.Run = work(g) })
	g.eventually(t, time.Minute, 2, 2)
	join(t, srv.URL(), "a", func(c *lanes.Config) { c.Run = work(h) })
	require.Never(t, func() bool { s, _ := h.shares(); return len(s) > 0 }, 4*time.Second, 20*time.Millisecond)
	first.stop()
	h.eventually(t, time.Minute, 2, 2)
}

// The usual restart: the only instance of a stage is killed and comes back under its fixed name. Nobody but itself is
// there to bury the record that it left.
func TestKilledInstanceComesBackUnderItsName(t *testing.T) {
	srv := natstest.New(t)
	create(t, srv.URL(), "a", 2)
	g, h := newLedger(), newLedger()
	p := natstest.NewProxy(t, srv.Addr())
	join(t, p.URL(), "a", func(c *lanes.Config) { c.Run, c.LeaseTime = work(g), measured })
	g.eventually(t, time.Minute, 2, 2)
	p.Cut()
	join(t, srv.URL(), "a", func(c *lanes.Config) { c.Run, c.LeaseTime = work(h), measured })
	took := h.eventually(t, time.Minute, 2, 2)
	require.Greater(t, took, time.Second, "the lease time was not respected")
}

func TestBucketLostIsMadeAnew(t *testing.T) {
	srv := natstest.New(t)
	g := newLedger()
	run := func(c *lanes.Config) { c.Run = work(g) }
	create(t, srv.URL(), "a", 4)
	join(t, srv.URL(), "a", run)
	join(t, srv.URL(), "b", run)
	g.eventually(t, time.Minute, 4, 2, 2)
	before := g.startCount()
	_, js := natstest.Connect(t, srv.URL())
	require.NoError(t, js.DeleteKeyValue(t.Context(), lanes.Bucket))
	require.Eventually(t, func() bool { return g.startCount() >= before+4 }, time.Minute, 10*time.Millisecond)
	g.eventually(t, time.Minute, 4, 2, 2)
}
