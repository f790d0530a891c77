package window

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"sluice/libs/watermark"
)

// TestGolden runs the scenarios of testdata. A scenario is made of lines:
//
//	set window=10ms [latest] [event-time] [progress confirm=1m]
//	batch WRITER ARRIVAL [[max=TIME] of=PARTITIONS [idle=SINCE]]  begins a batch; the writer is the number of its partition. Its rows follow, indented:
//	  KEY TIME [vVERSION] pass|dup       a KEY of - is no key
//	restart                    continue from a checkpoint, in a new set
//	horizon TIME               what the horizon must be; none: nothing is forgotten
//	entries N                  what memory must hold
//	window 20ms                change the window
//	follow confirm=1m          from here on go by what batches say of partitions
//
// Times are milliseconds. A # begins a comment.
func TestGolden(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txt")
	require.NoError(t, err)
	require.NotEmpty(t, files)
	for _, f := range files {
		t.Run(strings.TrimSuffix(filepath.Base(f), ".txt"), func(t *testing.T) {
			text, err := os.ReadFile(f)
			require.NoError(t, err)
			runScenario(t, string(text))
		})
	}
}

type scenario struct {
	cfg    Config
	set    *Set
	saved  []Chunk
	writer string
	at     int64
	begun  bool // a batch
	rows   []event
	want   []bool

	told     bool
	progress watermark.Batch
}

func runScenario(t *testing.T, text string) {
	var s scenario
	for n, line := range strings.Split(text, "\n") {
		line, _, _ = strings.Cut(line, "#")
		f := strings.Fields(line)
		if len(f) == 0 {
			continue
		}
		where := fmt.Sprintf("line %d: %s", n+1, line)
		if line[0] == ' ' {
			s.row(t, where, f)
			continue
		}
		s.flush(t, where)
		s.step(t, where, f)
	}
	s.flush(t, "end")
}

func (s *scenario) row(t *testing.T, where string, f []string) {
	e := event{timeMS: number(t, where, f[1])}
	if f[0] != "-" {
		for _, c := range f[0] {
			e.key = e.key<<8 | uint64(c)
		}
	}
	if len(f) == 4 {
		e.version = uint64(number(t, where, strings.TrimPrefix(f[2], "v")))
	}
	verdict := f[len(f)-1]
	require.Contains(t, []string{"pass", "dup"}, verdict, where)
	s.rows, s.want = append(s.rows, e), append(s.want, verdict == "pass")
}

func (s *scenario) flush(t *testing.T, where string) {
	if !s.begun {
		return
	}
	b := batchOf(s.writer, s.at, s.rows, s.cfg.Latest)
	b.Told, b.Progress = s.told, s.progress
	_, err := s.set.Admit(b)
	require.NoError(t, err, where)
	for i, in := range selected(b.Selection, b.Rows) {
		require.Equal(t, s.want[i], in, "batch before %q, row %d (%+v)", where, i+1, s.rows[i])
	}
	s.rows, s.want, s.begun = nil, nil, false
}

func (s *scenario) step(t *testing.T, where string, f []string) {
	var err error
	switch f[0] {
	case "set":
		s.cfg, s.saved = Config{}, nil
		var confirm time.Duration
		follow := false
		for _, o := range f[1:] {
			switch name, value, _ := strings.Cut(o, "="); name {
			case "latest":
				s.cfg.Latest = true
			case "event-time":
				s.cfg.EventTime = true
			case "progress":
				follow = true
			case "confirm":
				confirm = duration(t, where, value)
			default:
				s.cfg.Window = duration(t, where, value)
			}
		}
		s.set, err = New(s.cfg)
		require.NoError(t, err, where)
		if follow {
			s.set.Follow(Confirm{MS: confirm.Milliseconds()})
		}
	case "follow":
		s.set.Follow(Confirm{MS: duration(t, where, strings.TrimPrefix(f[1], "confirm=")).Milliseconds()})
	case "batch":
		s.writer, s.at, s.begun = f[1], number(t, where, f[2]), true
		s.told, s.progress = false, watermark.Batch{Writer: f[1], Partition: int32(number(t, where, f[1])), ArrivalMS: s.at}
		for _, o := range f[3:] {
			name, value, _ := strings.Cut(o, "=")
			switch n := number(t, where, value); name {
			case "max":
				s.progress.MaxMS, s.progress.HasMax = n, true
			case "idle":
				s.progress.IdleSinceMS = n
			case "of":
				s.told, s.progress.Partitions = true, int(n)
			default:
				require.Fail(t, "unknown option "+name, where)
			}
		}
	case "restart":
		s.saved = append(s.saved, s.set.Take()...)
		state := s.set.State()
		s.set, err = New(s.cfg)
		require.NoError(t, err, where)
		require.NoError(t, s.set.RestoreState(state), where)
		for _, c := range s.saved {
			require.NoError(t, s.set.Restore(c.Data), where)
		}
	case "horizon":
		want := MinTime
		if f[1] != "none" {
			want = number(t, where, f[1])
		}
		require.Equal(t, want, s.set.Horizon(), where)
	case "entries":
		require.EqualValues(t, number(t, where, f[1]), s.set.Len(), where)
	case "window":
		s.cfg.Window = duration(t, where, f[1])
		require.NoError(t, s.set.SetWindow(s.cfg.Window), where)
	default:
		require.Fail(t, "unknown step", where)
	}
}

func number(t *testing.T, where, s string) int64 {
	n, err := strconv.ParseInt(s, 10, 64)
	require.NoError(t, err, where)
	return n
}

func duration(t *testing.T, where, s string) time.Duration {
	d, err := time.ParseDuration(s)
	require.NoError(t, err, where)
	return d
}
