package ingestor

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/proto"

	controlv1 "sluice/gen/sluice/control/v1"
	eventv1 "sluice/gen/sluice/event/v1"
	"sluice/libs/batch"
	"sluice/libs/fencedlog"
	"sluice/libs/kafka"
	"sluice/libs/spec"
)

func TestRecoverPosition(t *testing.T) {
	old, now := topicID{1}, topicID{2}
	body := func(id topicID, next int64) []byte {
		b, err := proto.Marshal(&eventv1.IngestPosition{TopicId: id[:], NextOffset: next, Tally: &eventv1.Tally{Records: 50}})
		require.NoError(t, err)
		return b
	}
	at := func(positions ...string) map[int]fencedlog.Last {
		last := map[int]fencedlog.Last{}
		for lane, p := range positions {
			if p != "" {
				last[lane] = fencedlog.Last{Position: p}
			}
		}
		return last
	}
	counted := batch.Tally{Records: 50}
	for name, c := range map[string]struct {
		log  fencedlog.Recovered
		dead string
		want position
	}{
		"new partition": {
			want: position{id: now, next: 7, lanes: []int64{7, 7}, dead: 7, fresh: true},
		},
		"crash before the first settle": {
			log:  fencedlog.Recovered{Last: at(token(now, 12, 0), "")},
			want: position{id: now, next: 7, lanes: []int64{12, 7}, dead: 7, fresh: true},
		},
		"settled": {
			log:  fencedlog.Recovered{Body: body(now, 40), Last: at(token(now, 33, 0), token(now, 40, 0))},
			want: position{id: now, next: 40, tally: counted, lanes: []int64{40, 40}, dead: 40},
		},
		"lanes and dead letters ahead of the fence": {
			log:  fencedlog.Recovered{Body: body(now, 40), Last: at(token(now, 45, 0), token(now, 60, 0))},
			dead: token(now, 52, 0),
			want: position{id: now, next: 40, tally: counted, lanes: []int64{45, 60}, dead: 52, lettered: 52},
		},
		"topic made anew": {
			log:  fencedlog.Recovered{Body: body(old, 4000), Last: at(token(old, 4000, 0), token(old, 3999, 0))},
			dead: token(old, 4000, 0),
			want: position{id: now, next: 7, tally: counted, lanes: []int64{7, 7}, dead: 7, fresh: true},
		},
		"topic made anew, crash before the first settle since": {
			log:  fencedlog.Recovered{Body: body(old, 4000), Last: at(token(now, 9, 0), token(old, 3999, 0))},
			want: position{id: now, next: 7, tally: counted, lanes: []int64{9, 7}, dead: 7, fresh: true},
		},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := recoverPosition(now, 7, lanesFrom0(2), c.log, c.dead)
			require.NoError(t, err)
			require.Equal(t, c.want, got)
		})
	}
	_, err := recoverPosition(now, 7, lanesFrom0(1), fencedlog.Recovered{Last: at("nonsense")}, "")
	require.ErrorContains(t, err, `position "nonsense"`)
}

func TestFirstOffset(t *testing.T) {
	id := topicID{3}
	rec := &controlv1.PipelineRecord{StartOffsets: &controlv1.StartOffsets{TopicId: id[:], Offsets: map[int32]int64{0: 100}}}
	require.Equal(t, int64(100), firstOffset(rec, "", id, 0, 5), "pinned when the pipeline was made")
	require.Equal(t, int64(100), firstOffset(rec, "", id, 0, 120), "expired meanwhile, which fit makes known")
	require.Equal(t, int64(5), firstOffset(rec, "", id, 1, 5), "a partition added later")
	require.Equal(t, int64(5), firstOffset(rec, "", topicID{4}, 0, 5), "the topic was made anew")
	require.Equal(t, int64(5), firstOffset(&controlv1.PipelineRecord{}, "", id, 0, 5), "EARLIEST")
}

// TestTheLogWentBack: Kafka's group remembers an offset that no fence says any more.
func TestTheLogWentBack(t *testing.T) {
	at := func(offset, end int64) bounds { return bounds{committed: kafka.Committed{Offset: offset}, end: end} }
	pos := position{next: 10}
	require.False(t, pos.wentBack("p", "t", 0, at(10, 100), time.Now()))
	require.False(t, pos.wentBack("p", "t", 0, at(60, 50), time.Now()), "Kafka itself lost its end")
	require.True(t, pos.wentBack("p", "t", 0, at(60, 100), time.Now()))
	require.Contains(t, pos.loss.text, "had been read up to offset 59, and the log has it up to 9")
	require.False(t, pos.wentBack("p", "t", 0, at(60, 100), time.Now()), "once")
	body, err := pos.body("t", 0)
	require.NoError(t, err)
	again, err := recoverPosition(topicID{}, 0, lanesFrom0(1), fencedlog.Recovered{Body: body}, "")
	require.NoError(t, err)
	require.EqualValues(t, 60, again.seen)
	require.EqualValues(t, 100, again.seenEnd)

	// Nothing at all is left: whose offset it is tells.
	fresh := position{fresh: true, id: topicID{1}}
	require.False(t, fresh.wentBack("p", "t", 0, at(60, 100), time.Now()), "nobody knows whose")
	by := at(60, 100)
	by.committed.Note = kafka.Note("q", topicID{1}, 60)
	require.False(t, fresh.wentBack("p", "t", 0, by, time.Now()), "another pipeline's")
	by.committed.Note = kafka.Note("p", topicID{2}, 60)
	require.False(t, fresh.wentBack("p", "t", 0, by, time.Now()), "of a topic that is no more")
	by.committed = kafka.Committed{Offset: 5, Note: kafka.Note("p", topicID{1}, 60)} // it had gone back before, and was reading again
	require.True(t, fresh.wentBack("p", "t", 0, by, time.Now()))
	require.Contains(t, fresh.loss.text, "had been read up to offset 59, and the log has nothing of it; it is read again from offset 0")
}

func lanesFrom0(n int) laneSets { return laneSets{current: spec.LaneSet{Count: n}} }
