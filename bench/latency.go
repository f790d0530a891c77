package main

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"text/tabwriter"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	eventv1 "sluice/gen/sluice/event/v1"
	"sluice/libs/receipts"
)

const (
	// latencyDelay is how long the sink collects a block.
	latencyDelay = 20 * time.Millisecond
	// warmUp comes before each measurement: Kafka compiles itself while it runs.
	warmUp = 5 * time.Second
)

// pace is one line of the table.
type pace struct {
	setup        string
	rate, events int
	blocks       int
	// total is from the hand-over to the Kafka client until ClickHouse has acknowledged the block, from which moment on a query sees
	// its rows: of the first and the last event of each batch. insert is the last part of it, of each block: the position written and
	// the block in the table.
	total, insert []time.Duration
	// acked is the first part of total, of each event: until Kafka has acknowledged it.
	acked []time.Duration
	cores map[string]float64 // CPU of each process, in cores
}

// latency measures each rate in each setup. When a row was visible is read from the sink's receipts afterwards, so that looking does not
// cost the engine anything.
func latency(ctx context.Context, s *stack, o options) error {
	shape := shapes()[0]
	var lines []pace
	for round := range o.rounds {
		for _, rate := range o.latency {
			for i, su := range o.setups() {
				p, err := measureLatency(ctx, s, o, su, shape, rate, fmt.Sprintf("latency-%d-%d-%d", rate, round, i))
				if err != nil {
					return fmt.Errorf("%d events/s, %s: %w", rate, su.name, err)
				}
				lines = append(lines, p)
			}
		}
	}
	fmt.Printf("\nfrom Kafka to a visible row, %d partitions, %d lanes, dedup %v, max_delay %s, engine %s\n\n", o.partitions, o.lanes, o.dedup, latencyDelay, o.engine)
	w := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintf(w, "setup\tevents/s\tp50\tp99\tlongest\tin Kafka p50\tp99\tinsert p50\tp99\tblocks/s\tcores: %s\t\n", strings.Join(order, "\t"))
	for _, p := range lines {
		fmt.Fprintf(w, "%s\t%d\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%.0f", p.setup, p.rate, at(p.total, 50), at(p.total, 99), at(p.total, 100),
			at(p.acked, 50), at(p.acked, 99), at(p.insert, 50), at(p.insert, 99), float64(p.blocks)/float64(o.seconds))
		for _, name := range order {
			fmt.Fprintf(w, "\t%.2f", p.cores[name])
		}
		fmt.Fprintf(w, "\t\n")
	}
	return w.Flush()
}

// at is a percentile of sorted durations.
func at(d []time.Duration, percent int) string {
	return d[min(len(d)*percent/100, len(d)-1)].Round(time.Millisecond).String()
}

func measureLatency(ctx context.Context, s *stack, o options, su setup, shape shape, rate int, id string) (pace, error) {
	side, err := s.side(ctx, su)
	if err != nil {
		return pace{}, err
	}
	table := strings.ReplaceAll(id, "-", "_")
	engine := "Null"
	if o.engine != "Null" {
		engine = "MergeTree ORDER BY event_id SETTINGS non_replicated_deduplication_window = 10000"
	}
	if _, err := s.query(ctx, fmt.Sprintf("CREATE TABLE %s (%s) ENGINE = %s", table, strings.Join(shape.columns, ", "), engine)); err != nil {
		return pace{}, err
	}
	client, err := kgo.NewClient(kgo.SeedBrokers(s.kafkaAddr), kgo.RecordPartitioner(kgo.RoundRobinPartitioner()), kgo.ProducerLinger(0),
		kgo.ProducerBatchCompression(kgo.Lz4Compression()))
	if err != nil {
		return pace{}, err
	}
	defer client.Close()
	if _, err := kadm.NewClient(client).CreateTopic(ctx, int32(o.partitions), 1, nil, id); err != nil {
		return pace{}, err
	}
	spec := fmt.Sprintf("id: %s\nlanes: %d\nsource: {kafka: {brokers: [%q], topic: %s}}\nsink: {clickhouse: {addr: [%q], table: %s}}\nbatch: {max_delay: %s}\n",
		id, su.lanes, s.kafkaAddr, id, s.clickhouse, table, latencyDelay)
	if o.dedup {
		spec += "dedup: {key: [event_id], window: 24h}\n"
	}
	if _, err := side.sluice(ctx, []byte(spec), "apply", "-f", "-"); err != nil {
		return pace{}, err
	}
	feed := &feed{client: client, topic: id, shape: shape}
	if err := feed.run(ctx, rate, warmUp); err != nil {
		return pace{}, err
	}
	if _, err := side.sluice(ctx, nil, "wait", id, "--timeout", "1m"); err != nil {
		return pace{}, err
	}
	warm := feed.n
	feed.acked = nil // nothing is in flight
	before, err := s.cpu(side)
	if err != nil {
		return pace{}, err
	}
	began := time.Now()
	if err := feed.run(ctx, rate, time.Duration(o.seconds)*time.Second); err != nil {
		return pace{}, err
	}
	took := time.Since(began).Seconds()
	after, err := s.cpu(side)
	if err != nil {
		return pace{}, err
	}
	if _, err := side.sluice(ctx, nil, "wait", id, "--timeout", "5m"); err != nil {
		return pace{}, err
	}
	slices.Sort(feed.acked)
	p := pace{setup: su.name, rate: rate, events: feed.n - warm, acked: feed.acked, cores: map[string]float64{}}
	for name, seconds := range after {
		p.cores[name] = (seconds - before[name]) / took
	}
	if err := p.read(ctx, side, id, feed.sent, began); err != nil {
		return pace{}, err
	}
	if _, err := side.sluice(ctx, nil, "delete", id); err != nil {
		return pace{}, err
	}
	_, err = s.query(ctx, "DROP TABLE "+table+" SYNC")
	return p, err
}

// place is where a record is in Kafka.
type place struct {
	partition int32
	offset    int64
}

// read finds for each record that was sent from began on when its block was acknowledged.
func (p *pace) read(ctx context.Context, d *side, id string, sent map[place]time.Time, began time.Time) error {
	nc, err := nats.Connect(d.nats)
	if err != nil {
		return err
	}
	defer nc.Close()
	js, err := jetstream.New(nc)
	if err != nil {
		return err
	}
	err = receipts.Each(ctx, js, id, -1, func(r *eventv1.Receipt, _ uint64) bool {
		measured := false
		for _, b := range r.GetBatches() {
			// Of the offsets between them some are other lanes'.
			for _, offset := range []int64{b.GetFirstOffset(), b.GetLastOffset()} {
				when, ok := sent[place{b.GetPartition(), offset}]
				if !ok || when.Before(began) {
					continue
				}
				p.total = append(p.total, time.UnixMilli(r.GetDoneMs()).Sub(when))
				measured = true
			}
		}
		if measured {
			p.insert = append(p.insert, time.Duration(r.GetDoneMs()-r.GetBeganMs())*time.Millisecond)
			p.blocks++
		}
		return true
	})
	if err != nil {
		return err
	}
	if len(p.total) == 0 {
		return fmt.Errorf("no receipts of %s", id)
	}
	slices.Sort(p.total)
	slices.Sort(p.insert)
	return nil
}

// feed sends events at a rate and notes when each was handed over.
type feed struct {
	client *kgo.Client
	topic  string
	shape  shape
	n      int

	mu    sync.Mutex
	sent  map[place]time.Time // guarded by mu
	acked []time.Duration     // guarded by mu
	err   error               // guarded by mu
}

func (f *feed) run(ctx context.Context, rate int, d time.Duration) error {
	if f.sent == nil {
		f.sent = map[place]time.Time{}
	}
	ticker := time.NewTicker(time.Millisecond)
	defer ticker.Stop()
	began := time.Now()
	for first := f.n; ; {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-ticker.C:
		}
		elapsed := min(time.Since(began), d)
		for due := first + int(elapsed.Seconds()*float64(rate)); f.n < due; f.n++ {
			now := time.Now()
			f.client.Produce(ctx, &kgo.Record{Topic: f.topic, Value: f.shape.append(nil, uint64(f.n))}, func(r *kgo.Record, err error) {
				f.mu.Lock()
				defer f.mu.Unlock()
				if err != nil && f.err == nil {
					f.err = err
				}
				f.sent[place{r.Partition, r.Offset}] = now
				f.acked = append(f.acked, time.Since(now))
			})
		}
		if elapsed == d {
			break
		}
	}
	if err := f.client.Flush(ctx); err != nil {
		return err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.err
}
