//go:build unix

package realkafka_test

import (
	"context"
	"net"
	"os"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"sluice/libs/playground/kafka/kafkatest"
	"sluice/libs/playground/kafka/realkafka"
)

func produce(t *testing.T, addr, value string) {
	t.Helper()
	c, err := kgo.NewClient(kgo.SeedBrokers(addr), kgo.DefaultProduceTopic("t"))
	require.NoError(t, err)
	defer c.Close()
	require.NoError(t, c.ProduceSync(t.Context(), kgo.StringRecord(value)).FirstErr())
}

func end(t *testing.T, addr string) int64 {
	t.Helper()
	c, err := kgo.NewClient(kgo.SeedBrokers(addr))
	require.NoError(t, err)
	defer c.Close()
	var offset int64
	require.Eventually(t, func() bool { // a broker that has just come up leads nothing yet
		offsets, err := kadm.NewClient(c).ListEndOffsets(t.Context(), "t")
		o, ok := offsets.Lookup("t", 0)
		offset = o.Offset
		return err == nil && ok && o.Err == nil
	}, time.Minute, 20*time.Millisecond)
	return offset
}

func TestBrokerSurvivesKillAndRestart(t *testing.T) {
	r := kafkatest.StartReal(t, realkafka.Config{})
	c, err := kgo.NewClient(kgo.SeedBrokers(r.Addr()))
	require.NoError(t, err)
	err = realkafka.CreateTopic(t.Context(), kadm.NewClient(c), "t", 1, nil)
	require.NoError(t, err)
	c.Close()
	produce(t, r.Addr(), "one")

	addr := r.Addr()
	require.NoError(t, r.Kill())
	require.Zero(t, r.Pid())
	_, err = net.DialTimeout("tcp", addr, time.Second)
	require.Error(t, err, "nothing listens after a kill")

	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute) // two starts
	defer cancel()
	require.NoError(t, r.Start(ctx))
	require.Equal(t, addr, r.Addr())
	require.EqualValues(t, 1, end(t, addr))

	require.NoError(t, r.Pause())
	pid := r.Pid()
	frozen, stop := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer stop()
	c, err = kgo.NewClient(kgo.SeedBrokers(addr))
	require.NoError(t, err)
	defer c.Close()
	require.Error(t, c.Ping(frozen), "a paused broker answers nothing")
	require.NoError(t, r.Resume())
	require.NoError(t, c.Ping(ctx))
	require.Equal(t, pid, r.Pid())

	require.NoError(t, r.Restart(ctx))
	require.NotEqual(t, pid, r.Pid())
	produce(t, addr, "two")
	require.EqualValues(t, 2, end(t, addr))
}

func TestRunNamesWhatIsWrong(t *testing.T) {
	_, err := realkafka.Run(t.Context(), realkafka.Config{})
	require.ErrorContains(t, err, "no directory given")
	if _, err := realkafka.Jars(t.Context(), "", t.Output()); err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatal(err)
		}
		t.Skip(err)
	}
	_, err = realkafka.Run(t.Context(), realkafka.Config{Dir: t.TempDir(), Properties: map[string]string{"num.network.threads": "none"}})
	require.ErrorContains(t, err, "num.network.threads")
}
