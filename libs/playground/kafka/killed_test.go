package kafka_test

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"sluice/libs/playground/kafka"
)

// brokerDir makes this test's binary a broker that keeps its data there: one that can be killed.
const brokerDir = "SLUICE_TEST_BROKER_DIR"

func TestBrokerToBeKilled(t *testing.T) {
	dir := os.Getenv(brokerDir)
	if dir == "" {
		t.Skip("run by TestKilled")
	}
	b, err := kafka.Open(kafka.Config{Listen: "127.0.0.1:0", Dir: dir, AutoCreateTopics: true, Partitions: 2})
	require.NoError(t, err)
	fmt.Println("listens on", b.Addr())
	select {}
}

// killable starts a broker as a process of its own.
func killable(t *testing.T, dir string) (addr string, kill func()) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestBrokerToBeKilled$", "-test.v")
	cmd.Env = append(os.Environ(), brokerDir+"="+dir)
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	killed := false
	kill = func() {
		if !killed {
			killed = true
			_ = cmd.Process.Kill()
			_ = cmd.Wait()
		}
	}
	t.Cleanup(kill)
	lines := bufio.NewScanner(out)
	for lines.Scan() {
		if _, at, ok := strings.Cut(lines.Text(), "listens on "); ok {
			return at, kill
		}
	}
	t.Fatal("the broker does not come up")
	return "", nil
}

// What was acknowledged is there again after a kill at any time, at the same offsets, in the same topic, and so are the offsets of groups.
func TestKilled(t *testing.T) {
	dir := t.TempDir()
	acked := map[string]bool{} // values by partition and offset
	var id kadm.TopicID
	for round := range 6 {
		addr, kill := killable(t, dir)
		ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
		client, err := kgo.NewClient(kgo.SeedBrokers(addr), kgo.AllowAutoTopicCreation(), kgo.RecordPartitioner(kgo.RoundRobinPartitioner()))
		require.NoError(t, err)
		require.NoError(t, client.ProduceSync(ctx, &kgo.Record{Topic: "t", Value: []byte("first")}).FirstErr())
		admin := kadm.NewClient(client)
		topics, err := admin.ListTopics(ctx, "t")
		require.NoError(t, err)
		if round == 0 {
			id = topics["t"].ID
		}
		require.Equal(t, id, topics["t"].ID, "the same topic")
		if round > 0 {
			fetched, err := admin.FetchOffsets(ctx, "g")
			require.NoError(t, err)
			at, ok := fetched.Lookup("t", 0)
			require.True(t, ok)
			require.EqualValues(t, round, at.At)
		}
		there := map[string]bool{}
		for _, one := range recordsOf(t, addr) {
			there[one] = true
		}
		for one := range acked {
			require.True(t, there[one], one)
		}
		commit := kadm.Offsets{}
		commit.AddOffset("t", 0, int64(round+1), -1)
		require.NoError(t, admin.CommitAllOffsets(ctx, "g", commit))
		// Killed while records come.
		done := make(chan struct{})
		results := make(chan string, 1<<16)
		go func() {
			defer close(done)
			for i := 0; ctx.Err() == nil && i < cap(results); i++ {
				value := fmt.Sprintf("%d-%d%s", round, i, strings.Repeat("x", 2000))
				client.TryProduce(ctx, &kgo.Record{Topic: "t", Value: []byte(value)}, func(r *kgo.Record, err error) {
					if err == nil {
						results <- fmt.Sprintf("%d:%d=%s", r.Partition, r.Offset, r.Value[:8])
					}
				})
			}
		}()
		for len(results) == 0 && ctx.Err() == nil {
			time.Sleep(time.Millisecond)
		}
		time.Sleep(time.Duration(10*round) * time.Millisecond)
		kill()
		cancel()
		<-done
		client.Close()
		close(results)
		for one := range results {
			acked[one] = true
		}
	}
	require.NotEmpty(t, acked)
}

// recordsOf reads the whole topic.
func recordsOf(t *testing.T, addr string) (list []string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	client, err := kgo.NewClient(kgo.SeedBrokers(addr), kgo.ConsumeTopics("t"), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))
	require.NoError(t, err)
	defer client.Close()
	ends, err := kadm.NewClient(client).ListEndOffsets(ctx, "t")
	require.NoError(t, err)
	left := int64(0)
	ends.Each(func(o kadm.ListedOffset) { left += o.Offset })
	for left > 0 {
		fetches := client.PollFetches(ctx)
		require.NoError(t, fetches.Err())
		fetches.EachRecord(func(r *kgo.Record) {
			left--
			list = append(list, fmt.Sprintf("%d:%d=%s", r.Partition, r.Offset, r.Value[:min(8, len(r.Value))]))
		})
	}
	return list
}

// The marks of a kill: entries and batches that were not written whole, and directories of a topic that was not written down.
func TestMended(t *testing.T) {
	dir := t.TempDir()
	produce := func(value string) {
		t.Helper()
		b, err := kafka.Open(kafka.Config{Listen: "127.0.0.1:0", Dir: dir, AutoCreateTopics: true, Partitions: 1})
		require.NoError(t, err)
		defer b.Close()
		client, err := kgo.NewClient(kgo.SeedBrokers(b.Addr()), kgo.AllowAutoTopicCreation())
		require.NoError(t, err)
		defer client.Close()
		require.NoError(t, client.ProduceSync(t.Context(), &kgo.Record{Topic: "t", Value: []byte(value)}).FirstErr())
		commit := kadm.Offsets{}
		commit.AddOffset("t", 0, 1, -1)
		require.NoError(t, kadm.NewClient(client).CommitAllOffsets(t.Context(), "group-"+value, commit))
	}
	appendTo := func(name, text string) {
		t.Helper()
		f, err := os.OpenFile(filepath.Join(dir, name), os.O_APPEND|os.O_WRONLY|os.O_CREATE, 0o600)
		require.NoError(t, err)
		_, err = f.WriteString(text)
		require.NoError(t, err)
		require.NoError(t, f.Close())
	}
	produce("a0000000")
	appendTo("groups.log", "\x40\x00\x00\x00half an entry")
	appendTo("pids.log", "\x40")
	appendTo("partitions/t-0/0.dat", "\x00\x00\x00\x00\x00\x00\x00\x01\x00\x00\x00\x70half a batch")
	require.NoError(t, os.MkdirAll(filepath.Join(dir, "partitions", "gone-0"), 0o750))
	appendTo("partitions/gone-0/0.dat", "records of nobody")
	produce("b0000000")
	// A batch without its entry in the index was not acknowledged.
	index := filepath.Join(dir, "partitions", "t-0", "0.idx")
	info, err := os.Stat(index)
	require.NoError(t, err)
	require.NoError(t, os.Truncate(index, info.Size()-1))
	produce("c0000000")

	b, err := kafka.Open(kafka.Config{Listen: "127.0.0.1:0", Dir: dir, AutoCreateTopics: true, Partitions: 1})
	require.NoError(t, err)
	defer b.Close()
	require.Equal(t, []string{"0:0=a0000000", "0:1=c0000000"}, recordsOf(t, b.Addr()))
	client, err := kgo.NewClient(kgo.SeedBrokers(b.Addr()))
	require.NoError(t, err)
	defer client.Close()
	groups, err := kadm.NewClient(client).ListGroups(t.Context())
	require.NoError(t, err)
	require.Subset(t, groups.Groups(), []string{"group-a0000000", "group-b0000000", "group-c0000000"})
	require.NoDirExists(t, filepath.Join(dir, "partitions", "gone-0"))
	lost, err := filepath.Glob(filepath.Join(dir, "lost", "gone-0.*"))
	require.NoError(t, err)
	require.Len(t, lost, 1)
}
