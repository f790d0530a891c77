//go:build unix

package e2e

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kgo"

	"sluice/e2e/internal/stack"
	"sluice/libs/playground/kafka/kafkatest"
)

// pairs is two topics whose events are sent more than once, and what a join of them without the repetitions is.
type pairs struct {
	t     *testing.T
	sides [2]*stack.Producer
	begin time.Time
	sent  [2][]string // keys, by number
	want  []string
}

const pairsWindow = 2 * time.Second

// send sends n more events of each side, every third of them twice, and some of long ago.
func (p *pairs) send(n int) {
	p.t.Helper()
	for range n {
		for side, producer := range p.sides {
			i := len(p.sent[side])
			key := fmt.Sprintf("k%d", (i*7+side*3)%23)
			p.sent[side] = append(p.sent[side], key)
			p.event(producer, side, i)
			if i%3 == 0 {
				p.event(producer, side, i)
			}
			for j, other := range p.sent[1-side] {
				if other == key && p.at(i, side).Sub(p.at(j, 1-side)).Abs() <= pairsWindow {
					l, r := i, j
					if side == 1 {
						l, r = j, i
					}
					p.want = append(p.want, fmt.Sprintf("%s|%d|%d", key, l, r))
				}
			}
		}
	}
	for side, producer := range p.sides {
		for i := 0; i < len(p.sent[side])-200; i += 97 {
			p.event(producer, side, i)
		}
		producer.Flush()
	}
}

func (p *pairs) at(i, side int) time.Time {
	return p.begin.Add(time.Duration(i)*20*time.Millisecond + time.Duration(side)*3*time.Millisecond)
}

func (p *pairs) event(producer *stack.Producer, side, i int) {
	value := fmt.Appendf(nil, `{"key":%q,"id":"%d-%d","%s":%d,"at":%q}`, p.sent[side][i], side, i, []string{"l", "r"}[side], i, p.at(i, side).Format(time.RFC3339Nano))
	producer.SendRecord(&kgo.Record{Partition: int32(i % 2), Value: value})
}

// Lanes are changed again before the change before is finished, while the pipeline is paused, and while a process of each stage is killed; a pipeline is
// deleted in the middle of a change. Each change is made, or refused with what to wait for; what status, list and verify say at any time is true.
func TestChangeLanesAgainAndAgain(t *testing.T) {
	kafka := kafkatest.StartFake(t)
	s := runJoinStack(t)
	table := stack.OpenSQL(t, s.ClickHouseAddr)
	table.Exec(`CREATE TABLE pairs (key String, l UInt64, r UInt64) ENGINE = MergeTree ORDER BY l SETTINGS non_replicated_deduplication_window = 1000`)
	table.Exec(`CREATE TABLE lefts (key String, l UInt64) ENGINE = MergeTree ORDER BY l SETTINGS non_replicated_deduplication_window = 1000`)
	p := &pairs{t: t, begin: time.Now().Add(-time.Hour).Truncate(time.Second)}
	for side, name := range []string{"lefts", "rights"} {
		p.sides[side] = stack.NewProducer(t, kafka, name, 2)
	}
	p.send(300)
	specs := map[string]string{
		"pairs": fmt.Sprintf(`
id: pairs
sources:
  lefts: {kafka: {brokers: ["%[1]s"], topic: lefts}, time: at, dedup: {key: [id], window: 24h}}
  rights: {kafka: {brokers: ["%[1]s"], topic: rights}, time: at, dedup: {key: [id], window: 24h}}
join: {left: lefts, right: rights, on: [{left: key, right: key}], window: %[3]s, grace: 10m, type: INNER}
columns: [{name: key, from: lefts.key}]
sink: {clickhouse: {addr: ["%[2]s"], table: pairs}}
batch: {max_delay: 50ms}
`, kafka, s.ClickHouseAddr, pairsWindow),
		"lefts": fmt.Sprintf(`
id: lefts
source: {kafka: {brokers: ["%[1]s"], topic: lefts}}
sink: {clickhouse: {addr: ["%[2]s"], table: lefts}}
batch: {max_delay: 50ms}
`, kafka, s.ClickHouseAddr),
	}
	apply := func(id string, lanes int) stack.Result {
		t.Helper()
		r := s.Run(specs[id]+fmt.Sprintf("lanes: %d\n", lanes), "apply", "-f", "-")
		t.Logf("apply %s %d lanes: %d %s", id, lanes, r.Code, strings.TrimSpace(r.Stderr))
		if r.Code != 0 {
			require.Contains(t, r.Stderr, "is not finished", "nothing else refuses a change of lanes")
		}
		return r
	}
	until := func(id string, lanes int) {
		t.Helper()
		stack.Await(t, stack.Up, fmt.Sprintf("%s takes %d lanes", id, lanes), func() (bool, any) {
			r := apply(id, lanes)
			return r.Code == 0, r
		})
	}
	looks := func(id string) {
		t.Helper()
		t.Log(s.Do("status", id))
		require.Contains(t, s.Do("list"), id)
		r := s.Run("", "verify", id)
		t.Logf("verify %s: %d\n%s%s", id, r.Code, r.Stdout, r.Stderr)
		require.Contains(t, []int{0, 7}, r.Code, "equal, or what cannot be told in the middle of a change")
	}
	settled := func(id string, lanes int) {
		t.Helper()
		stack.Await(t, stack.Up, fmt.Sprintf("%s has %d lanes", id, lanes), func() (bool, any) {
			status := s.Status(id)
			units := map[string]int{}
			for _, l := range status.Lanes {
				units[l.Stage]++
			}
			ok := status.State == "RUNNING" && units["sink"] == lanes && (id == "lefts" || units["dedup"] == lanes && units["join"] == lanes)
			return ok, status
		})
	}
	for id := range specs {
		until(id, 4)
		settled(id, 4)
	}
	apply("pairs", 1)
	apply("pairs", 9)
	looks("pairs")
	p.send(300)
	until("pairs", 9)
	until("lefts", 1)
	looks("lefts")
	p.send(200)

	// Nothing goes on while it is paused, which an answer says.
	s.Do("pause", "pairs")
	r := apply("pairs", 2)
	if r.Code == 0 { // the change before was just done
		r = apply("pairs", 3)
	}
	require.Contains(t, r.Stderr, "resume it", "what to do")
	p.send(200)
	s.kill("join", "control")
	s.WaitReady("control")
	looks("pairs")
	require.Equal(t, "PAUSED", s.Status("pairs").State)
	s.Do("resume", "pairs")
	until("pairs", 2) // it is in any case
	for _, name := range []string{"ingestor", "dedup", "join", "sink"} {
		s.kill(name)
		p.send(100)
	}
	settled("pairs", 2)
	until("pairs", 5)
	settled("pairs", 5)
	p.send(100)

	awaitRows(t, s.CLI, table, "pairs", "pairs", len(p.want))
	for id := range specs {
		s.Wait(id, stack.Up)
		s.Calm(id)
		require.Empty(t, s.DeadLetters(id))
	}
	requireRows(t, p.want, table.Rows("SELECT key, l, r FROM pairs"))
	for id := range specs {
		r := s.Run("", "verify", id)
		require.Zero(t, r.Code, "%s%s", r.Stdout, r.Stderr)
	}

	until("lefts", 3)
	s.Do("delete", "lefts")
	until("pairs", 3)
	s.Do("delete", "pairs")
	stack.Await(t, stack.Up, "both are gone", func() (bool, any) {
		list := s.Do("list")
		return !strings.Contains(list, "lefts") && !strings.Contains(list, "pairs"), list
	})
}
