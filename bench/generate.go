package main

import (
	"context"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"strconv"
	"strings"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
)

// shape is one kind of event: its JSON and its table.
type shape struct {
	name    string
	columns []string // ClickHouse columns
	append  func(dst []byte, id uint64) []byte
}

// small is 200 bytes with 5 fields, wide 1.5 KB with 35.
func shapes() []shape {
	small := shape{
		name:    "200B",
		columns: []string{"event_id String", "user_id UInt64", "name String", "email String", "created_at DateTime64(3)"},
		append: func(dst []byte, id uint64) []byte {
			dst = fmt.Appendf(dst, `{"event_id":"%s","user_id":%d,"name":"%s","email":"user%d@mail.example.com","created_at":"2026-01-%02d 12:%02d:%02d.%03d"}`,
				uuid(id), id%1_000_003, filler(id, 24), id%1_000_003, id%28+1, id/1000%60, id/60000%60, id%1000)
			return dst
		},
	}
	wide := shape{name: "1.5KB", columns: slicesClone(small.columns)}
	for i := range 20 {
		wide.columns = append(wide.columns, fmt.Sprintf("s%d String", i))
	}
	for i := range 10 {
		wide.columns = append(wide.columns, fmt.Sprintf("n%d Int64", i))
	}
	wide.append = func(dst []byte, id uint64) []byte {
		dst = small.append(dst, id)
		dst = dst[:len(dst)-1]
		for i := range uint64(20) {
			dst = append(dst, `,"s`...)
			dst = strconv.AppendUint(dst, i, 10)
			dst = append(dst, `":"`...)
			dst = append(dst, filler(id*31+i, 44)...)
			dst = append(dst, '"')
		}
		for i := range uint64(10) {
			dst = append(dst, `,"n`...)
			dst = strconv.AppendUint(dst, i, 10)
			dst = append(dst, `":`...)
			dst = strconv.AppendUint(dst, mix(id+i)>>20, 10)
		}
		return append(dst, '}')
	}
	return []shape{small, wide}
}

func slicesClone(s []string) []string { return append([]string(nil), s...) }

// mix spreads the bits of an id.
func mix(x uint64) uint64 {
	x ^= x >> 33
	x *= 0xff51afd7ed558ccd
	x ^= x >> 33
	x *= 0xc4ceb9fe1a85ec53
	return x ^ x>>33
}

func uuid(id uint64) string {
	var b [16]byte
	binary.BigEndian.PutUint64(b[:], mix(id))
	binary.BigEndian.PutUint64(b[8:], id)
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
}

// words are what the text fields are made of: real events repeat themselves, and what travels
// compressed must be as compressible as they are.
var words = strings.Fields(`order payment customer session checkout basket product category price discount
	shipping address city country browser firefox chrome safari mobile desktop tablet campaign newsletter
	search result click view scroll purchase refund invoice account premium standard trial monthly yearly
	europe america asia berlin paris london tokyo madrid warsaw vienna oslo active pending closed failed
	success retry timeout api web app store partner affiliate organic direct email social referral unknown`)

// filler is n bytes of text.
func filler(seed uint64, n int) string {
	var b strings.Builder
	for x := mix(seed + 1); b.Len() < n; x = mix(x + 1) {
		for i := 0; i < 4 && b.Len() < n; i++ {
			b.WriteString(words[x>>(16*i)&0xffff%uint64(len(words))])
			b.WriteByte(' ')
		}
	}
	return b.String()[:n]
}

// topic is what is to be read.
type topic struct {
	name             string
	events, distinct int
	size             float64 // bytes of an event
}

// produce fills a topic with events, one in ten of which repeats one of the last 100,000.
func produce(ctx context.Context, broker, name string, s shape, events, partitions int) (topic, error) {
	client, err := kgo.NewClient(kgo.SeedBrokers(broker), kgo.RecordPartitioner(kgo.RoundRobinPartitioner()),
		kgo.ProducerBatchCompression(kgo.Lz4Compression()), kgo.MaxBufferedRecords(200_000))
	if err != nil {
		return topic{}, err
	}
	defer client.Close()
	if _, err := kadm.NewClient(client).CreateTopic(ctx, int32(partitions), 1, nil, name); err != nil {
		return topic{}, fmt.Errorf("create topic %s: %w", name, err)
	}
	random := rand.New(rand.NewPCG(1, 2))
	var failed error
	var bytes, distinct int
	for range events {
		id := uint64(distinct)
		if distinct > 0 && random.IntN(10) == 0 {
			id -= 1 + random.Uint64N(min(uint64(distinct), 100_000))
		} else {
			distinct++
		}
		value := s.append(nil, id)
		bytes += len(value)
		client.Produce(ctx, &kgo.Record{Topic: name, Value: value}, func(_ *kgo.Record, err error) {
			if err != nil && failed == nil {
				failed = err
			}
		})
	}
	if err := client.Flush(ctx); err != nil {
		return topic{}, err
	}
	return topic{name, events, distinct, float64(bytes) / float64(events)}, failed
}
