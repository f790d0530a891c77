//go:build unix

package main

import (
	"os"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestOutagesAreRead(t *testing.T) {
	all, err := ParseOutages(outages, dedupStages)
	require.NoError(t, err)
	require.Equal(t, []Outage{{ClickHouse, 10 * time.Minute}, {NATS, 2 * time.Minute}, {Kafka, 2 * time.Minute}}, all)
	all, err = ParseOutages("sink=1s, kafka=2s", dedupStages)
	require.NoError(t, err)
	plan := outagePlan(all)
	require.Equal(t, KillAll, plan[0].Faults[0].Action, "all instances of a stage")
	require.Equal(t, Kill, plan[1].Faults[0].Action)
	_, err = ParseOutages(outages, joinStages)
	require.NoError(t, err)
	_, err = ParseOutages("kafka=4m", joinStages)
	require.ErrorContains(t, err, "late for the join")
	for _, bad := range []string{"", "sink", "moon=1s", "sink=later", "sink=-1s", "join=1s"} {
		_, err := ParseOutages(bad, dedupStages)
		require.ErrorContains(t, err, "outage ", bad)
	}
}

// A service that holds too much is told of once; the table shows the most of each phase.
func TestMemoryIsWatched(t *testing.T) {
	if _, ok := residentMemory(os.Getpid()); !ok {
		t.Skip("this system does not tell how much memory a process holds")
	}
	stack := &Stack{dir: t.TempDir(), order: []string{Sink}, stages: map[string][]*Part{}}
	run := func(name string) *Part {
		p := stack.part(name, "", nil, "60")
		p.path, p.LogFile = "/bin/sleep", stack.dir+"/"+name
		require.NoError(t, p.Start())
		t.Cleanup(func() { require.NoError(t, p.Kill()) })
		return p
	}
	stack.stages[Sink] = []*Part{run("sink-1")}
	stack.control, stack.nats, stack.clickhouse = run(Control), run(NATS), run(ClickHouse)
	complaints := map[string]int{}
	m := newMemory(stack, 1, func(_ string, args ...any) { complaints[args[0].(string)]++ })
	m.sample()
	require.Empty(t, complaints, "before the first phase")
	m.Phase("calm")
	m.sample()
	require.NoError(t, stack.nats.Kill())
	m.Phase("nats down")
	m.sample()
	require.Equal(t, map[string]int{"sink-1": 1, Control: 1}, complaints, "services only, each once")
	require.Equal(t, "| MiB at most | calm | nats down |", m.Lines()[0])
	require.Regexp(t, `^\| nats \| \d+ \|  \|$`, m.Lines()[4])
}
