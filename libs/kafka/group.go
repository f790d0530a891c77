package kafka

import (
	"context"
	"encoding/hex"
	"errors"
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

// Note is what a pipeline leaves with the offsets that it commits: whose they are, since a group may have had others before, for which incarnation of the topic, and the
// highest offset that it ever committed, since it may have to read again.
func Note(pipeline string, topicID [16]byte, highest int64) string {
	return "sluice/" + pipeline + "/" + hex.EncodeToString(topicID[:]) + "/" + strconv.FormatInt(highest, 10)
}

// Of returns how far the pipeline had ever read, and in which incarnation of the topic. Not ok: another has committed it, or an earlier version.
func (c Committed) Of(pipeline string) (topicID []byte, highest int64, ok bool) {
	text, ours := strings.CutPrefix(c.Note, "sluice/"+pipeline+"/")
	id, at, whole := strings.Cut(text, "/")
	topicID, err := hex.DecodeString(id)
	if !ours || !whole || err != nil || len(topicID) != 16 {
		return nil, c.Offset, false
	}
	if highest, err = strconv.ParseInt(at, 10, 64); err != nil {
		return nil, c.Offset, false
	}
	return topicID, max(highest, c.Offset), true
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
