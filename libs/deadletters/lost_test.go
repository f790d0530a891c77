package deadletters_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/proto"

	eventv1 "sluice/gen/sluice/event/v1"
	"sluice/libs/deadletters"
	"sluice/libs/fencedlog"
	"sluice/libs/playground/nats/natstest"
)

// newLossy is a world whose dead-letter log can be put back to an earlier copy: keep copies it, lose puts that back.
func newLossy(t *testing.T) (w *world, kv jetstream.KeyValue, keep func() (lose func())) {
	w = newWorld(t)
	server := natstest.New(t)
	_, w.js = natstest.Connect(t, server.URL(), nats.MaxReconnects(-1), nats.ReconnectWait(20*time.Millisecond))
	log := fencedlog.Log{Pipeline: "p", Stage: fencedlog.DeadLetters}
	require.NoError(t, fencedlog.Ensure(t.Context(), w.js, log, fencedlog.Limits{}))
	kv, err := w.js.CreateKeyValue(t.Context(), jetstream.KeyValueConfig{Bucket: "state"})
	require.NoError(t, err)
	return w, kv, func() (lose func()) {
		putBack := server.Copy(w.js)
		return func() { putBack(log.Stream()) }
	}
}

// many are refusals of the five records that there are.
func many(n int) []deadletters.Refusal {
	out := refusals(n)
	for i := range out {
		out[i].Offset = int64(i % 5)
		out[i].Reason = fmt.Sprintf("row %d", i)
	}
	return out
}

// The log goes back to an earlier copy, also in the middle of an Append: what lacks is made anew as it was, once, whatever is killed meanwhile.
func TestLostLettersAreMadeAnew(t *testing.T) {
	w, kv, keep := newLossy(t)
	w.produce("orders", "a", "b", "c", "d", "e")
	noted := func(o *deadletters.Options) { o.Notes = kv }
	writer, _ := w.open(w.js, noted)
	require.NoError(t, deadletters.Lost(t.Context(), w.js, "p", writer.Mark()), "there is none yet")
	require.NoError(t, writer.Append(t.Context(), "1", many(5)))
	lose := keep()
	writer, _ = w.open(w.js, noted)
	require.NoError(t, writer.Append(t.Context(), "2/0", many(7)))
	require.NoError(t, writer.Append(t.Context(), "2", many(2500))) // more than a slot of notes
	had := writer.Mark()
	require.EqualValues(t, 2512, had.GetCount())
	require.NoError(t, deadletters.Lost(t.Context(), w.js, "p", had))
	want := w.letters()
	require.Len(t, want, 2512)

	lose()
	require.Len(t, w.letters(), 5)
	small := func(o *deadletters.Options) { o.Notes, o.MaxPayload = kv, 64<<10 } // some messages more
	for crashes := 0; ; crashes++ {
		require.ErrorIs(t, deadletters.Lost(t.Context(), w.js, "p", had), fencedlog.ErrTailLost)
		writer, _ := w.open(&crashing{w.js, 1 + crashes, crashes%2 == 0}, small)
		loss, err := writer.Remake(t.Context(), had)
		writer.Close()
		if err != nil {
			require.ErrorIs(t, err, errCrash)
			continue
		}
		require.Greater(t, crashes, 2, "messages")
		require.Equal(t, loss.Lost, loss.Made)
		break
	}
	heir, last := w.open(w.js, noted)
	require.Equal(t, "2", last)
	require.Equal(t, 2500, heir.In("2"))
	require.Zero(t, heir.Missing(had).Lost)
	require.NoError(t, deadletters.Lost(t.Context(), w.js, "p", heir.Mark()))
	got := w.letters()
	require.Len(t, got, len(want))
	for i := range want {
		require.True(t, proto.Equal(want[i], got[i]), "letter %d", i)
	}
}

// What is not noted any more is gone: that is said, with its number and where it was.
func TestLostLettersThatAreNotNoted(t *testing.T) {
	w, kv, keep := newLossy(t)
	w.produce("orders", "a", "b", "c", "d", "e")
	noted := func(o *deadletters.Options) { o.Notes = kv }
	writer, _ := w.open(w.js, nil)
	require.NoError(t, writer.Append(t.Context(), "1", many(5)))
	lose := keep()
	writer, _ = w.open(w.js, nil)
	require.NoError(t, writer.Append(t.Context(), "2", many(3)))
	writer, _ = w.open(w.js, noted)
	require.NoError(t, writer.Append(t.Context(), "3", many(2)))
	had := writer.Mark()
	lose()
	heir, _ := w.open(w.js, noted)
	require.Equal(t, deadletters.Loss{Lost: 5, After: "1#5", UpTo: "3#2"}, heir.Missing(had))
	loss, err := heir.Remake(t.Context(), had)
	require.NoError(t, err)
	require.Equal(t, "the dead-letter stream lost its tail: 5 dead letters up to that of 3#2 were lost, the last one left is of 1#5; 2 were made anew, 3 are gone: which rows they were of is not noted",
		loss.Outcome())
	require.Len(t, w.letters(), 7)
	require.EqualValues(t, 10, heir.Mark().GetCount(), "no number twice")
	require.NoError(t, heir.Append(t.Context(), "4", many(1)))
	require.EqualValues(t, 11, heir.Mark().GetCount())
}

// The letters of a version that did not number them are counted; only so many notes are kept.
func TestNotesAreBounded(t *testing.T) {
	w, kv, keep := newLossy(t)
	w.produce("orders", "a", "b", "c", "d", "e")
	log, _, err := fencedlog.Open(t.Context(), w.js, fencedlog.Log{Pipeline: "p", Stage: fencedlog.DeadLetters}, "join-3", fencedlog.Options{Lanes: []int{3}})
	require.NoError(t, err)
	data, err := proto.Marshal(&eventv1.DeadLetterBatch{Letters: []*eventv1.DeadLetter{{Offset: 1}, {Offset: 2}}})
	require.NoError(t, err)
	_, err = log.Append(t.Context(), 3, "1#2", data)
	require.NoError(t, err)
	lose := keep()
	writer, _ := w.open(w.js, func(o *deadletters.Options) { o.Notes = kv })
	require.EqualValues(t, 2, writer.Mark().GetCount())
	require.NoError(t, writer.Append(t.Context(), "2", many(34_000)))
	had := writer.Mark()
	lose()
	heir, _ := w.open(w.js, func(o *deadletters.Options) { o.Notes = kv })
	loss, err := heir.Remake(t.Context(), had)
	require.NoError(t, err)
	require.EqualValues(t, 34_000, loss.Lost)
	require.Greater(t, loss.Made, uint64(31_000))
	require.Less(t, loss.Made, loss.Lost)
	got := w.letters()
	require.Equal(t, "row 33999", got[len(got)-1].GetReason())
	status, err := kv.Status(t.Context())
	require.NoError(t, err)
	require.Less(t, status.Bytes(), uint64(4<<20))
}
