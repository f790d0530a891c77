//go:build unix

package main

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"
)

// sampleEvery is how often memory is looked at.
const sampleEvery = 500 * time.Millisecond

// Memory samples the resident memory of all processes, by phase of the run. Where the system does not tell, there is nothing to
// show and nothing to complain about.
type Memory struct {
	stack *Stack
	limit uint64 // bytes that no service may exceed
	// complain is told once for each process.
	complain func(format string, args ...any)

	mu      sync.Mutex
	phases  []string                    // guarded by mu: in their order
	largest map[string]map[string]Usage // guarded by mu: by process and phase
	told    map[string]bool             // guarded by mu
}

// Usage is what a process held in a phase.
type Usage struct {
	Least, Most uint64
}

func newMemory(stack *Stack, limit uint64, complain func(string, ...any)) *Memory {
	return &Memory{stack: stack, limit: limit, complain: complain, largest: map[string]map[string]Usage{}, told: map[string]bool{}}
}

// Phase begins a phase.
func (m *Memory) Phase(name string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.phases = append(m.phases, name)
}

// Run samples until ctx ends.
func (m *Memory) Run(ctx context.Context) {
	for wait(ctx, sampleEvery) == nil {
		m.sample()
	}
}

func (m *Memory) sample() {
	services := m.stack.Services()
	all := append(slices.Clone(services), m.stack.nats, m.stack.clickhouse)
	m.mu.Lock()
	defer m.mu.Unlock()
	if len(m.phases) == 0 {
		return
	}
	phase := m.phases[len(m.phases)-1]
	for i, p := range all {
		bytes, ok := residentMemory(p.PID())
		if !ok {
			continue // it is not there
		}
		of := m.largest[p.Name]
		if of == nil {
			of = map[string]Usage{}
			m.largest[p.Name] = of
		}
		u, seen := of[phase]
		if !seen {
			u.Least = bytes
		}
		of[phase] = Usage{min(u.Least, bytes), max(u.Most, bytes)}
		if i < len(services) && bytes > m.limit && !m.told[p.Name] {
			m.told[p.Name] = true
			m.complain("%s holds %d MiB while %s: more than %d", p.Name, bytes>>20, phase, m.limit>>20)
		}
	}
}

// Lines is the table of what each process held at most, in MiB.
func (m *Memory) Lines() (lines []string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	row := func(first string, cell func(phase string) string) {
		cells := []string{first}
		for _, phase := range m.phases {
			cells = append(cells, cell(phase))
		}
		lines = append(lines, "| "+strings.Join(cells, " | ")+" |")
	}
	row("MiB at most", func(phase string) string { return phase })
	row("---", func(string) string { return "---" })
	names := make([]string, 0, len(m.largest))
	for name := range m.largest {
		names = append(names, name)
	}
	slices.SortFunc(names, func(a, b string) int { return cmp.Compare(a, b) })
	for _, name := range names {
		row(name, func(phase string) string {
			u, ok := m.largest[name][phase]
			if !ok {
				return ""
			}
			return fmt.Sprint(u.Most >> 20)
		})
	}
	return lines
}
