package kafka_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"sluice/libs/playground/kafka"
)

// joiner is a member of a group that does what it is told.
type joiner struct {
	t      *testing.T
	client *kgo.Client
	join   *kmsg.JoinGroupRequest
}

func newJoiner(t *testing.T, addr, group string) *joiner {
	client, err := kgo.NewClient(kgo.SeedBrokers(addr))
	require.NoError(t, err)
	t.Cleanup(client.Close)
	join := kmsg.NewPtrJoinGroupRequest()
	join.Group, join.ProtocolType, join.SessionTimeoutMillis, join.RebalanceTimeoutMillis = group, "consumer", 6000, 60_000
	protocol := kmsg.NewJoinGroupRequestProtocol()
	protocol.Name = "range"
	join.Protocols = append(join.Protocols, protocol)
	j := &joiner{t, client, join}
	first, err := join.RequestWith(t.Context(), client)
	require.NoError(t, err)
	require.ErrorIs(t, kerr.ErrorForCode(first.ErrorCode), kerr.MemberIDRequired)
	join.MemberID = first.MemberID
	return j
}

// enter begins to join; what comes of it is the generation.
func (j *joiner) enter() <-chan int32 {
	generation := make(chan int32, 1)
	go func() {
		defer close(generation)
		if r, err := j.join.RequestWith(j.t.Context(), j.client); err == nil && r.ErrorCode == 0 {
			generation <- r.Generation
		}
	}()
	return generation
}

func (j *joiner) sync(ctx context.Context, generation int32, members ...*joiner) error {
	s := kmsg.NewPtrSyncGroupRequest()
	s.Group, s.MemberID, s.Generation, s.ProtocolType, s.Protocol = j.join.Group, j.join.MemberID, generation, kmsg.StringPtr("consumer"), kmsg.StringPtr("range")
	for _, m := range members {
		a := kmsg.NewSyncGroupRequestGroupAssignment()
		a.MemberID = m.join.MemberID
		s.GroupAssignment = append(s.GroupAssignment, a)
	}
	r, err := s.RequestWith(ctx, j.client)
	if err != nil {
		return err
	}
	return kerr.ErrorForCode(r.ErrorCode)
}

func (j *joiner) beat(generation int32) error {
	h := kmsg.NewPtrHeartbeatRequest()
	h.Group, h.MemberID, h.Generation = j.join.Group, j.join.MemberID, generation
	r, err := h.RequestWith(j.t.Context(), j.client)
	require.NoError(j.t, err)
	return kerr.ErrorForCode(r.ErrorCode)
}

// A member that is killed while it waits to be let in keeps its partitions no longer than its session. In several groups, since it is by chance that
// kfake sees before it answers that nobody is there.
func TestMemberThatIsKilledWhileItJoins(t *testing.T) {
	b := open(t, kafka.Config{Listen: "127.0.0.1:0", Topics: map[string]int32{"t": 4}})
	for n := range 8 {
		t.Run(fmt.Sprint(n), func(t *testing.T) {
			t.Parallel()
			group := fmt.Sprint("g", n)
			lives := newJoiner(t, b.Addr(), group)
			generation, ok := <-lives.enter()
			require.True(t, ok)
			require.NoError(t, lives.sync(t.Context(), generation, lives))

			killed := newJoiner(t, b.Addr(), group)
			entered := killed.enter()
			require.Eventually(t, func() bool { return errors.Is(lives.beat(generation), kerr.RebalanceInProgress) }, time.Minute, 10*time.Millisecond)
			killed.client.Close()
			<-entered
			for range 100 {
				_ = lives.beat(generation) // time for the broker to see that it hung up
			}
			generation, ok = <-lives.enter()
			require.True(t, ok)
			require.NoError(t, lives.sync(t.Context(), generation, lives, killed))
			require.NoError(t, lives.beat(generation), "the group is of two")

			require.Eventually(t, func() bool { return errors.Is(lives.beat(generation), kerr.RebalanceInProgress) }, 2*time.Minute, 100*time.Millisecond,
				"the partitions are shared out anew")
		})
	}
}
