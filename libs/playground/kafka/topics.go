package kafka

import (
	"errors"
	"sync"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// asked makes topics that clients ask for. kfake does so, too, but writes such a topic down only when it ends in good order: after a kill its records would
// be of no topic, and the topic, made anew, would append to them.
type asked struct {
	cluster *kfake.Cluster
	mu      sync.Mutex
	known   map[string]bool // guarded by mu; topics that are there
}

func makeAsked(cluster *kfake.Cluster) {
	a := &asked{cluster: cluster, known: map[string]bool{}}
	cluster.ControlKey(kmsg.Metadata.Int16(), func(r kmsg.Request) (kmsg.Response, error, bool) {
		if m := r.(*kmsg.MetadataRequest); m.AllowAutoTopicCreation {
			for _, t := range m.Topics {
				if t.Topic != nil && t.TopicID == [16]byte{} {
					a.make(*t.Topic)
				}
			}
		}
		return nil, nil, false // the broker answers
	})
	cluster.ControlKey(kmsg.DeleteTopics.Int16(), func(kmsg.Request) (kmsg.Response, error, bool) {
		a.mu.Lock()
		defer a.mu.Unlock()
		clear(a.known)
		return nil, nil, false
	})
}

// make is called within a control function: what it waits for runs beside it.
func (a *asked) make(topic string) {
	a.mu.Lock()
	known := a.known[topic]
	a.mu.Unlock()
	if known {
		return
	}
	a.cluster.SleepControl(func() {
		if err := a.cluster.CreateTopic(topic, 0, nil); err != nil && !errors.Is(err, kerr.TopicAlreadyExists) {
			return // such as a name that cannot be: the broker says that there is no such topic
		}
		a.mu.Lock()
		defer a.mu.Unlock()
		a.known[topic] = true
	})
}
