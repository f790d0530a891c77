package realkafka

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
)

// CreateTopic makes a topic, unless it is there, and returns once the broker tells clients of all its partitions. The
// controller says that a topic is made before that: whoever asks for it in between hears that it does not exist.
func CreateTopic(ctx context.Context, admin *kadm.Client, topic string, partitions int32, configs map[string]*string) error {
	if _, err := admin.CreateTopic(ctx, partitions, 1, configs, topic); err != nil && !errors.Is(err, kerr.TopicAlreadyExists) {
		return fmt.Errorf("create topic %s: %w", topic, err)
	}
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		meta, err := admin.Metadata(ctx, topic)
		if err == nil && complete(meta.Topics[topic], partitions) {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("wait for topic %s: %w (last: %v)", topic, context.Cause(ctx), err)
		case <-tick.C:
		}
	}
}

// complete: every partition is there and is led.
func complete(topic kadm.TopicDetail, partitions int32) bool {
	if topic.Err != nil || len(topic.Partitions) != int(partitions) {
		return false
	}
	for _, p := range topic.Partitions {
		if p.Err != nil || p.Leader < 0 {
			return false
		}
	}
	return true
}
