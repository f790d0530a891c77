package lanes

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// session is one uninterrupted membership. Its context is the parent of all lanes' contexts, so that
// the end of the session reaches them without the loop's help.
type session struct {
	id     string
	ctx    context.Context
	cancel context.CancelCauseFunc
	// guard ends the session when it was not renewed in time, also while the loop waits for NATS.
	guard *time.Timer
	// rev, draining and renewed (when the last renewal was sent) are owned by the loop. renewed holds
	// both clocks: the monotonic one stands still while the machine sleeps.
	rev      uint64
	draining bool
	renewed  time.Time
}

// markerTTL is how long the trace of a removed key is kept in the bucket.
const markerTTL = time.Minute

// openBucket finds or makes the bucket.
func (m *Manager) openBucket(ctx context.Context) error {
	cfg := jetstream.KeyValueConfig{
		Bucket:         Bucket,
		Description:    "Sluice: members and lane leases of the stages",
		Storage:        jetstream.FileStorage,
		History:        1,
		LimitMarkerTTL: markerTTL,
	}
	kv, err := m.cfg.JS.CreateKeyValue(ctx, cfg)
	if errors.Is(err, jetstream.ErrBucketExists) {
		kv, err = m.cfg.JS.KeyValue(ctx, Bucket)
	}
	if err != nil {
		return fmt.Errorf("open bucket %s: %w", Bucket, err)
	}
	m.kv = kv
	return nil
}

// join makes this instance a member with a new session.
func (m *Manager) join(ctx context.Context) error {
	if err := m.openBucket(ctx); err != nil {
		return err
	}
	key := m.memberKey(m.cfg.Instance)
	m.sessions++
	s := &session{id: fmt.Sprintf("%s-%d", m.process, m.sessions), draining: m.isDraining()}
	value := encode(memberRecord{Session: s.id, Draining: s.draining})
	s.renewed = time.Now()
	entry, err := m.kv.Get(ctx, key)
	switch {
	case errors.Is(err, jetstream.ErrKeyNotFound):
		s.rev, err = m.kv.Create(ctx, key, value)
	case err != nil:
	case m.ownSession(entry.Value()):
		// Our own earlier session: replacing the record voids its leases.
		s.rev, err = m.kv.Update(ctx, key, value, entry.Revision())
	default:
		m.see(key, entry)
		if m.view.members[m.cfg.Instance].silent(m.cfg.LeaseTime, s.renewed) {
			// It was killed and we are its successor. As with the dead of another name, which a member
			// buries, its leases are void from here on; nobody else may be there to bury it.
			s.rev, err = m.kv.Update(ctx, key, value, entry.Revision())
			break
		}
		err = fmt.Errorf("another process has the name %q, or had it until a moment ago", m.cfg.Instance)
	}
	if err != nil {
		return fmt.Errorf("join the stage: %w", err)
	}
	var cancel context.CancelCauseFunc
	s.ctx, cancel = context.WithCancelCause(context.Background())
	s.cancel = cancel
	s.guard = time.AfterFunc(m.hold()-time.Since(s.renewed), func() { cancel(ErrLost) })
	m.session = s
	m.note(key, value, s.rev)
	m.log.Debug("joined the stage", "session", s.id)
	return nil
}

// ownSession: a record of this very process.
func (m *Manager) ownSession(value []byte) bool {
	var r memberRecord
	return json.Unmarshal(value, &r) == nil && len(r.Session) > len(m.process) &&
		r.Session[:len(m.process)+1] == m.process+"-"
}

// expired: too long since the last renewal, by either clock. A jump of the wall clock costs a new
// session, nothing else; a machine that slept is noticed by nothing else.
func (m *Manager) expired(s *session, now time.Time) bool {
	wall := now.Round(0).Sub(s.renewed.Round(0))
	return now.Sub(s.renewed) >= m.hold() || wall >= m.hold() || wall < -m.hold()
}

// renew proves that the instance is alive. errLostSession: it counts as dead already.
func (m *Manager) renew(ctx context.Context) error {
	s := m.session
	sent := time.Now()
	key := m.memberKey(m.cfg.Instance)
	draining := m.isDraining()
	value := encode(memberRecord{Session: s.id, Draining: draining})
	rev, err := m.kv.Update(ctx, key, value, s.rev)
	if isConflict(err) {
		// Either we were buried, or an earlier renewal came through whose answer did not.
		entry, getErr := m.kv.Get(ctx, key)
		if errors.Is(getErr, jetstream.ErrKeyNotFound) {
			return errBuried
		}
		if getErr != nil {
			return fmt.Errorf("look at own record: %w", getErr)
		}
		var r memberRecord
		if json.Unmarshal(entry.Value(), &r) != nil || r.Session != s.id {
			return errBuried
		}
		s.rev = entry.Revision()
		sent = time.Now()
		rev, err = m.kv.Update(ctx, key, value, s.rev)
	}
	if err != nil {
		return fmt.Errorf("renew: %w", err)
	}
	s.rev, s.draining, s.renewed = rev, draining, sent
	m.note(key, value, rev)
	s.guard.Reset(m.hold() - time.Since(sent))
	return nil
}

var errBuried = errors.New("others have declared this instance dead")

// endSession cancels all lanes with ErrLost. They are not released: they are not ours any more.
func (m *Manager) endSession(reason error) {
	m.session.guard.Stop()
	m.session.cancel(ErrLost)
	m.session = nil
	// The bucket itself may have been lost and made anew, with revisions that begin again: nothing of
	// the old view may be compared with it.
	m.lookAfresh()
	m.log.Warn("lost the leases of all lanes", "reason", reason)
}

// leave removes the member record after everything was released.
func (m *Manager) leave(ctx context.Context) {
	if m.session == nil {
		return
	}
	m.session.guard.Stop()
	defer m.session.cancel(ErrStopping)
	if err := m.purge(ctx, m.memberKey(m.cfg.Instance), m.session.rev); err != nil {
		m.log.Info("could not leave the stage; others will notice in a moment", "error", err)
	}
}

// purge removes a key if it is still at rev.
func (m *Manager) purge(ctx context.Context, key string, rev uint64) error {
	err := m.kv.Purge(ctx, key, jetstream.LastRevision(rev), jetstream.PurgeTTL(markerTTL))
	var api *jetstream.APIError
	if errors.As(err, &api) && api.ErrorCode == errCodeTTLDisabled {
		// A bucket that was made by hand, without markers that expire.
		err = m.kv.Purge(ctx, key, jetstream.LastRevision(rev))
	}
	return err
}

// Codes of the server that nats.go has no error for, or two of the same meaning.
const (
	errCodeTTLDisabled           = 10166
	errCodeWrongSequence         = 10071
	errCodeWrongSequenceConstant = 10164
)

// isConflict: the key has another revision than expected. Nothing was written.
func isConflict(err error) bool {
	var api *jetstream.APIError
	if errors.As(err, &api) {
		return api.ErrorCode == errCodeWrongSequence || api.ErrorCode == errCodeWrongSequenceConstant
	}
	return errors.Is(err, jetstream.ErrKeyExists)
}

func encode(v any) []byte {
	b, err := json.Marshal(v)
	if err != nil {
		panic(err) // plain structs of strings and bools
	}
	return b
}
