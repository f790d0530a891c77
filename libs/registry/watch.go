package registry

import (
	"context"
	"errors"
	"maps"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	controlv1 "sluice/gen/sluice/control/v1"
)

// lookAgain is how often Watch asks whether it missed anything; this bounds the delay of what an
// update of the watcher did not tell (NATS restarted, the watcher's consumer was lost).
const lookAgain = time.Second

// Watch calls changed with all pipelines by id, at the start and whenever something is different.
// Calls come one after the other, from this goroutine; the map and its records are the callee's.
// Watch returns the error of ctx when that ends, and never before.
//
// The watcher of NATS is only a hint to look at once: what is delivered always comes from a listing.
func (r *Registry) Watch(ctx context.Context, changed func(map[string]*controlv1.PipelineRecord)) error {
	var last map[string]uint64 // revisions delivered; nil until the first delivery
	var seen mark
	h := hints{r: r}
	defer h.close()
	tick := time.NewTicker(lookAgain)
	defer tick.Stop()
	for {
		h.open(ctx)
		if now, err := r.mark(ctx); err == nil && (last == nil || now != seen) {
			// The mark is taken before the listing: what changes between is seen again, not missed.
			if picture, err := r.picture(ctx); err == nil {
				anew := !now.created.Equal(seen.created) // whose revisions say nothing of those before
				seen = now
				if revs := revisions(picture); last == nil || anew || !maps.Equal(revs, last) {
					last = revs
					changed(records(picture))
				}
			}
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		case _, ok := <-h.updates():
			h.ended = !ok
		}
	}
}

func revisions(picture map[string]kept) map[string]uint64 {
	revs := make(map[string]uint64, len(picture))
	for id, k := range picture {
		revs[id] = k.revision
	}
	return revs
}

func records(picture map[string]kept) map[string]*controlv1.PipelineRecord {
	recs := make(map[string]*controlv1.PipelineRecord, len(picture))
	for id, k := range picture {
		recs[id] = k.record
	}
	return recs
}

// mark tells whether anything was written to the bucket; a bucket made anew has another,
// a missing one the zero mark.
type mark struct {
	created  time.Time
	sequence uint64
}

func (r *Registry) mark(ctx context.Context) (mark, error) {
	var m mark
	err := r.read(ctx, r.pipelines, func(ctx context.Context, kv jetstream.KeyValue) error {
		stream, err := r.js.Stream(ctx, "KV_"+kv.Bucket())
		if err != nil {
			return err
		}
		info := stream.CachedInfo() // of the request just made
		m = mark{info.Created, info.State.LastSeq}
		return nil
	})
	if errors.Is(err, errGone) {
		return mark{}, nil
	}
	return m, err
}

// hints is a watcher of the bucket that is opened anew when it may have died.
type hints struct {
	r          *Registry
	watcher    jetstream.KeyWatcher
	cancel     context.CancelFunc
	reconnects uint64
	ended      bool
}

func (h *hints) open(ctx context.Context) {
	reconnects := h.r.js.Conn().Stats().Reconnects
	if h.watcher != nil && !h.ended && reconnects == h.reconnects {
		return
	}
	h.close()
	h.reconnects, h.ended = reconnects, false
	// The watcher lives as long as its context, which is therefore not that of this attempt.
	// Without a limit, opening could wait for ever for an answer that went down with the connection.
	watched, cancel := context.WithCancel(ctx)
	limit := time.AfterFunc(attempt, cancel)
	err := h.r.read(ctx, h.r.pipelines, func(_ context.Context, kv jetstream.KeyValue) (err error) {
		h.watcher, err = kv.WatchAll(watched, jetstream.UpdatesOnly(), jetstream.MetaOnly())
		return err
	})
	if err != nil {
		cancel()
		h.watcher = nil // the next tick tries again
		return
	}
	h.cancel = cancel
	h.ended = !limit.Stop() // too late: it is being closed
}

// updates is ready when there is something new; nil, which never is, while there is no watcher.
func (h *hints) updates() <-chan jetstream.KeyValueEntry {
	if h.watcher == nil || h.ended {
		return nil
	}
	return h.watcher.Updates()
}

func (h *hints) close() {
	if h.watcher == nil {
		return
	}
	h.cancel()
	stop(h.watcher)
	h.watcher = nil
}
