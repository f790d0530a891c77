package kafka

import "github.com/IBM/sarama"

// Message is a record as Record and Records return it.
type Message = sarama.ConsumerMessage
