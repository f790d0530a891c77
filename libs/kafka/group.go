package kafka

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/IBM/sarama"
)

// leavePoll is how often DeleteGroup looks whether the members have left.
const leavePoll = 500 * time.Millisecond

// DeleteGroup removes a consumer group and its offsets. A group that does not exist is removed already. While it has
// members it waits, until ctx ends.
func (c *Cluster) DeleteGroup(ctx context.Context, group string) error {
	_, err := do(ctx, c, "delete consumer group "+group, func() (struct{}, error) {
		for {
			err := c.deleteGroup(group)
			if errors.Is(err, sarama.ErrGroupIDNotFound) {
				err = nil
			}
			if err == nil || !errors.Is(err, sarama.ErrNonEmptyGroup) && !passing(err) {
				return struct{}{}, err
			}
			select {
			case <-time.After(leavePoll):
			case <-ctx.Done():
				return struct{}{}, err
			}
		}
	})
	return err
}

func (c *Cluster) deleteGroup(group string) error {
	coordinator, err := c.coordinator(group)
	if err != nil {
		return err
	}
	request := &sarama.DeleteGroupsRequest{Version: 2, Groups: []string{group}}
	response, err := ask(coordinator, func() (*sarama.DeleteGroupsResponse, error) { return coordinator.DeleteGroups(request) })
	if err != nil {
		return err
	}
	code, ok := response.GroupErrorCodes[group]
	if !ok {
		return sarama.ErrIncompleteResponse
	}
	return kerror(code)
}

// Committed is what a consumer group has committed for a partition.
type Committed struct {
	Offset int64  // of the next record
	Note   string // that whoever committed it has left with it: see Note
}

// Word is which block a lane of the sink has brought into the table last, as far as whoever commits knows.
type Word struct {
	Lane     int
	Epoch    uint32
	Sequence uint64 // of the last message that the block was made of
	TimeNs   int64  // when that was stored, nanoseconds since 1970
}

// maxNote bounds a note. Brokers take 4,096 bytes by default.
const maxNote = 2048

// Note is what a pipeline leaves with the offsets that it commits: whose they are, since a group may have had others before, for which incarnation of the topic, the
// highest offset that it ever committed, since it may have to read again, and how far lanes of the sink have come, as many as there is room for.
func Note(pipeline string, topicID [16]byte, highest int64, words ...Word) string {
	note := "sluice/" + pipeline + "/" + hex.EncodeToString(topicID[:]) + "/" + strconv.FormatInt(highest, 10)
	for _, w := range words {
		more := fmt.Sprintf("/%d.%d.%d.%d", w.Lane, w.Epoch, w.Sequence, w.TimeNs)
		if len(note)+len(more) > maxNote {
			break
		}
		note += more
	}
	return note
}

// Of returns how far the pipeline had ever read, and in which incarnation of the topic. Not ok: another has committed it, or an earlier version.
func (c Committed) Of(pipeline string) (topicID []byte, highest int64, ok bool) {
	at, ok := c.parts(pipeline)
	if !ok {
		return nil, c.Offset, false
	}
	topicID, err := hex.DecodeString(at[0])
	if err != nil || len(topicID) != 16 {
		return nil, c.Offset, false
	}
	if highest, err = strconv.ParseInt(at[1], 10, 64); err != nil {
		return nil, c.Offset, false
	}
	return topicID, max(highest, c.Offset), true
}

// Words returns how far lanes of the pipeline's sink had come. None: another has committed it, or it does not say.
func (c Committed) Words(pipeline string) (words []Word) {
	at, ok := c.parts(pipeline)
	if !ok {
		return nil
	}
	for _, text := range at[2:] {
		var w Word
		if n, err := fmt.Sscanf(text, "%d.%d.%d.%d", &w.Lane, &w.Epoch, &w.Sequence, &w.TimeNs); n == 4 && err == nil {
			words = append(words, w)
		}
	}
	return words
}

// parts are those of a note of the pipeline behind its name, two at least.
func (c Committed) parts(pipeline string) ([]string, bool) {
	text, ours := strings.CutPrefix(c.Note, "sluice/"+pipeline+"/")
	at := strings.Split(text, "/")
	return at, ours && len(at) >= 2
}

// CommittedOffsets returns what a group committed for the partitions of a topic; partitions without are left out.
func (c *Cluster) CommittedOffsets(ctx context.Context, group, topic string) (map[int32]Committed, error) {
	return do(ctx, c, "fetch offsets of consumer group "+group, func() (offsets map[int32]Committed, err error) {
		err = c.retry(ctx, topic, func() error {
			offsets, err = c.committed(group, topic)
			if errors.Is(err, sarama.ErrGroupIDNotFound) {
				offsets, err = map[int32]Committed{}, nil // a group that does not exist has committed nothing
			}
			return err
		})
		return offsets, noTopic(err)
	})
}

func (c *Cluster) committed(group, topic string) (map[int32]Committed, error) {
	partitions, err := c.client.Partitions(topic)
	if err != nil {
		return nil, err
	}
	coordinator, err := c.coordinator(group)
	if err != nil {
		return nil, err
	}
	// Version 7 has one group a request, which is all we ask for.
	request := sarama.NewOffsetFetchRequest(sarama.V2_5_0_0, group, map[string][]int32{topic: partitions})
	response, err := ask(coordinator, func() (*sarama.OffsetFetchResponse, error) { return coordinator.FetchOffset(request) })
	if err != nil {
		return nil, err
	}
	if err := kerror(response.Err); err != nil {
		return nil, err
	}
	offsets := map[int32]Committed{}
	for _, p := range partitions {
		block := response.GetBlock(topic, p)
		if block == nil {
			return nil, missing(topic, p)
		}
		if err := kerror(block.Err); err != nil {
			return nil, err
		}
		if block.Offset >= 0 {
			offsets[p] = Committed{block.Offset, block.Metadata}
		}
	}
	return offsets, nil
}

func (c *Cluster) coordinator(group string) (*sarama.Broker, error) {
	if err := c.client.RefreshCoordinator(group); err != nil {
		return nil, err
	}
	return c.client.Coordinator(group)
}

// kerror makes an error of a code; none of "no error".
func kerror(code sarama.KError) error {
	if code == sarama.ErrNoError {
		return nil
	}
	return code
}
