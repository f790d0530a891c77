package join

import (
	"encoding/binary"
	"log/slog"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/types/known/durationpb"

	controlv1 "sluice/gen/sluice/control/v1"
	eventv1 "sluice/gen/sluice/event/v1"
	"sluice/libs/spec"
	"sluice/services/join/internal/match"
)

// What an earlier version has put out is replayed by the watermark of then; what holds now is adopted after that, and on record.
func TestSettingsOfEarlierVersions(t *testing.T) {
	record := &controlv1.PipelineRecord{Spec: &controlv1.Pipeline{
		Id: "p", Lanes: 1, Sources: map[string]*controlv1.Source{"orders": {}, "users": {}},
		Join: &controlv1.Join{
			Left: "orders", Right: "users", On: []*controlv1.JoinOn{{Left: "id", Right: "id"}}, Window: durationpb.New(10 * time.Second),
			Grace: durationpb.New(2 * time.Second), Idle: durationpb.New(5 * time.Second), Kind: controlv1.Join_INTERVAL,
		},
	}}
	open := func() *core {
		return newCore(record, config{set: spec.CurrentLanes(record), log: slog.New(slog.DiscardHandler), maxMessage: 1 << 20})
	}
	now := settingsOf(record.GetSpec())
	for version, want := range map[uint64]settings{
		2: {window: 7000, grace: 1000, idle: 4000, maxFuture: 9000},
		3: {window: 7000, grace: 1000, idle: 4000, maxFuture: 9000, confirm: 3000},
		4: {window: 7000, grace: 1000, idle: 4000, maxFuture: 9000, confirm: 3000, holds: 1, each: [2]int64{50, 60}},
	} {
		core := binary.AppendUvarint(nil, version)
		all := []int64{unitMS, want.window, want.wait, want.grace, want.idle, want.maxFuture, want.confirm, want.holds, want.each[0], want.each[1]}
		for _, n := range all[:map[uint64]int{2: 6, 3: 7, 4: 10}[version]] {
			core = binary.AppendVarint(core, n)
		}
		fresh := open()
		core = fresh.joiner.Append(fresh.tracker.Append(core))
		if version >= 4 {
			core = binary.AppendUvarint(core, 0) // no revision yet
		}
		c := open()
		require.NoError(t, c.Restore(t.Context(), &eventv1.Manifest{Core: core}, func(func(*eventv1.Segment, []byte) error) error { return nil }))
		require.Equal(t, want, c.settings, "version %d", version)
		require.Equal(t, want.holds > 0, want.times(c.names, nil).LiveHolds)
		changed, err := c.Adopt()
		require.NoError(t, err)
		require.True(t, changed)
		require.Equal(t, now, c.settings)
		again := open()
		require.NoError(t, again.Restore(t.Context(), &eventv1.Manifest{Core: c.appendState(nil)}, func(func(*eventv1.Segment, []byte) error) error { return nil }))
		require.Equal(t, now, again.settings)
		changed, err = again.Adopt()
		require.NoError(t, err)
		require.False(t, changed)
	}
	require.NotEqual(t, match.Forever, now.window)
	require.EqualValues(t, 1, now.holds)
	require.Equal(t, [2]int64{60, 60}, now.each)
}
