package kafka

import (
	"context"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// members removes those of a consumer group that are gone without a word. kfake does so by a timer that it starts with the answer to a
// request, and starts none where nobody is there any more to take the answer: a client that is killed while it joins would keep its partitions for
// good. Kafka lets it go when its session has run out, and so does this.
//
// Members are looked at while their group is stable: at any other time kfake bounds itself how long it waits for one.
type members struct {
	client *kgo.Client
	mu     sync.Mutex
	heard  map[member]heard
}

type member struct{ group, id string }

// heard is when a member was, and how long it may be silent.
type heard struct {
	at      time.Time
	session time.Duration
}

const (
	// lookInterval is how often groups are looked at, lookTimeout how long that may take.
	lookInterval = 2 * time.Second
	lookTimeout  = 10 * time.Second
	// unknownSession is that of a member that was not seen to join, since the broker was started anew: Kafka's default.
	unknownSession = 45 * time.Second
)

// newMembers listens to what members say.
func newMembers(cluster *kfake.Cluster, addr string) (*members, error) {
	client, err := kgo.NewClient(kgo.SeedBrokers(addr), kgo.ClientID("playground"))
	if err != nil {
		return nil, err
	}
	m := &members{client: client, heard: map[member]heard{}}
	observe := func(key kmsg.Key, note func(kmsg.Request)) {
		cluster.ControlKey(key.Int16(), func(r kmsg.Request) (kmsg.Response, error, bool) {
			note(r)
			return nil, nil, false
		})
	}
	observe(kmsg.JoinGroup, func(r kmsg.Request) {
		j := r.(*kmsg.JoinGroupRequest)
		m.note(member{j.Group, j.MemberID}, time.Duration(j.SessionTimeoutMillis)*time.Millisecond)
	})
	observe(kmsg.SyncGroup, func(r kmsg.Request) {
		s := r.(*kmsg.SyncGroupRequest)
		m.note(member{s.Group, s.MemberID}, 0)
	})
	observe(kmsg.Heartbeat, func(r kmsg.Request) {
		h := r.(*kmsg.HeartbeatRequest)
		m.note(member{h.Group, h.MemberID}, 0)
	})
	return m, nil
}

// note takes a sign of life; session 0 is one that does not say how long it may be silent.
func (m *members) note(who member, session time.Duration) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if session == 0 {
		session = unknownSession
		if before, ok := m.heard[who]; ok {
			session = before.session
		}
	}
	m.heard[who] = heard{time.Now(), session}
}

// run ends with ctx.
func (m *members) run(ctx context.Context) {
	defer m.client.Close()
	for {
		select {
		case <-ctx.Done():
			return
		case <-time.After(lookInterval):
			m.look(ctx)
		}
	}
}

// look lets go who has been silent for too long. What the broker does not answer now is done the next time.
func (m *members) look(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, lookTimeout)
	defer cancel()
	list, err := kmsg.NewPtrListGroupsRequest().RequestWith(ctx, m.client)
	if err != nil || len(list.Groups) == 0 {
		return
	}
	describe := kmsg.NewPtrDescribeGroupsRequest()
	for _, g := range list.Groups {
		describe.Groups = append(describe.Groups, g.Group)
	}
	described, err := describe.RequestWith(ctx, m.client)
	if err != nil {
		return
	}
	for _, gone := range m.silent(described.Groups, time.Now()) {
		leave := kmsg.NewPtrLeaveGroupRequest()
		leave.Group, leave.MemberID = gone.group, gone.id
		one := kmsg.NewLeaveGroupRequestMember()
		one.MemberID = gone.id
		leave.Members = append(leave.Members, one)
		if _, err := leave.RequestWith(ctx, m.client); err != nil {
			return
		}
	}
}

// silent returns who has been, and forgets members that are no more.
func (m *members) silent(groups []kmsg.DescribeGroupsResponseGroup, now time.Time) (gone []member) {
	m.mu.Lock()
	defer m.mu.Unlock()
	listed := map[member]bool{}
	for _, g := range groups {
		for _, one := range g.Members {
			who := member{g.Group, one.MemberID}
			listed[who] = true
			last, ok := m.heard[who]
			switch {
			case !ok:
				m.heard[who] = heard{now, unknownSession}
			case g.State == "Stable" && now.Sub(last.at) > last.session+lookInterval: // kfake's own timer comes first
				gone = append(gone, who)
			}
		}
	}
	for who, last := range m.heard {
		if !listed[who] && now.Sub(last.at) > last.session {
			delete(m.heard, who)
		}
	}
	return gone
}
