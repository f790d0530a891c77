package ingestor

import (
	"slices"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/proto"

	eventv1 "sluice/gen/sluice/event/v1"
	"sluice/libs/fencedlog"
	"sluice/libs/kafka"
	"sluice/libs/spec"
)

// What the sink's lanes say is in the group's notes, each lane's in one partition's, also when nothing is read meanwhile, and does not go back when another instance comes or the store goes back.
func TestTheGroupRemembersTheSink(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 2)
	nc := w.connect()
	say := func(lane int, epoch uint32, sequence uint64) {
		t.Helper()
		body, err := proto.Marshal(&eventv1.Receipt{Epoch: epoch, LastSequence: sequence, LastTimeNs: 5})
		require.NoError(t, err)
		require.NoError(t, fencedlog.Testify(nc, fencedlog.Log{Pipeline: "events", Stage: fencedlog.Ingest}, spec.StageSink, lane, body))
	}
	says := func(want ...[]kafka.Word) {
		t.Helper()
		require.Eventually(t, func() bool {
			committed, err := w.admin.FetchOffsets(w.ctx, w.rec.GetSpec().GetSource().GetKafka().GetGroup())
			require.NoError(t, err)
			for number, words := range want {
				o, ok := committed.Lookup("events", int32(number))
				c := kafka.Committed{Offset: o.At, Note: o.Metadata}
				if _, _, ours := c.Of("events"); !ok || !ours || o.At != 10 || !slices.Equal(words, c.Words("events")) {
					return false
				}
			}
			return true
		}, time.Minute, 20*time.Millisecond, "%v", want)
	}
	say(0, 0, 4) // before anybody listens
	a := w.start("a")
	for p := range int32(2) {
		w.produce(p, events(0, 10)...)
	}
	w.settled()
	says([]kafka.Word{{Lane: 0, Sequence: 4, TimeNs: 5}}, nil)
	say(1, 0, 7)
	say(2, 0, 9)
	says([]kafka.Word{{Lane: 2, Sequence: 9, TimeNs: 5}, {Lane: 0, Sequence: 4, TimeNs: 5}}, []kafka.Word{{Lane: 1, Sequence: 7, TimeNs: 5}})
	a.quit(t)
	stream, err := w.js.Stream(w.ctx, "sluice_events_ingest")
	require.NoError(t, err)
	for _, lane := range []string{"0", "1", "2"} {
		require.NoError(t, stream.Purge(w.ctx, jetstream.WithPurgeSubject("sluice.events.ingest.witness.sink."+lane)))
	}
	say(0, 0, 3)
	w.start("b")
	say(1, 1, 2)
	says([]kafka.Word{{Lane: 2, Sequence: 9, TimeNs: 5}, {Lane: 0, Sequence: 4, TimeNs: 5}}, []kafka.Word{{Lane: 1, Epoch: 1, Sequence: 2, TimeNs: 5}})
}
