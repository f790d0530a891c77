package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/zeebo/xxh3"
)

// generator makes the same events for the same seed.
type generator struct {
	events     int // records, duplicates included
	duplicates int
	seed       uint64
}

const (
	// stepMillis is the event time between two records.
	stepMillis = 5
	// near is how far back a duplicate of the near kind reaches, in distinct events: within one batch.
	near = 50
	// A duplicate of the far kind comes that much event time later, in records.
	farMin = 1 * 60_000 / stepMillis
	farMax = 10 * 60_000 / stepMillis
)

// start is the event time of the first record.
var start = time.Date(2026, 1, 31, 0, 0, 0, 0, time.UTC)

// truth is what the table must hold: the first sending of each event.
type truth struct {
	rows uint64
	// sum and xor of a 64-bit hash over whole rows: the order does not matter, each row does.
	sum, xor uint64
}

// event is a distinct event; its time is that of its sending.
type event struct {
	id    string
	user  uint64
	name  string
	email string
}

var (
	firstNames = [...]string{"Ada", "Björn", "Chloé", "Dmitri", "Emi", "Farid", "Grace", "Hana", "Iñaki", "José", "Kwame", "Łukasz", "Mei", "Noor", "Olu", "Zoë"}
	lastNames  = [...]string{"Abel", "Borg", "Curie", "Dahl", "Euler", "Fermi", "Gödel", "Hopper", "Ito", "Jensen", "Kahn", "Lovelace", "Müller", "Noether", "O'Brien", "Sato"}
)

// event makes distinct event number n.
func (g generator) event(n int) event {
	r := rand.New(rand.NewPCG(g.seed, uint64(n)))
	hi, lo := r.Uint64(), r.Uint64()
	user := r.Uint64N(100_000)
	first, last := firstNames[r.IntN(len(firstNames))], lastNames[r.IntN(len(lastNames))]
	return event{
		// A UUID of version 4 by its looks.
		id: fmt.Sprintf("%08x-%04x-4%03x-%04x-%012x", uint32(hi>>32), uint16(hi>>16), hi&0xfff, 0x8000|lo>>48&0x3fff, lo&0xffffffffffff),
		// Too large for a float64, so that one would show.
		user: 9_007_199_254_740_993 + user,
		name: first + " " + last, email: "user" + strconv.FormatUint(user, 10) + "@example.com",
	}
}

// each calls send for every record in order: the event's number, whether it is sent for the first
// time, and its event time.
func (g generator) each(send func(n int, first bool, millis int64) error) error {
	r := rand.New(rand.NewPCG(g.seed, 1<<63))
	firstAt := make([]int32, 0, g.events-g.duplicates) // record at which each event was first sent
	left := g.duplicates
	for i := range g.events {
		millis := start.UnixMilli() + int64(i)*stepMillis
		// Exactly as many duplicates as asked for, spread evenly; the first record cannot be one.
		if left > 0 && i > 0 && r.IntN(g.events-i) < left {
			left--
			if err := send(g.earlier(r, firstAt, i), false, millis); err != nil {
				return err
			}
			continue
		}
		firstAt = append(firstAt, int32(i))
		if err := send(len(firstAt)-1, true, millis); err != nil {
			return err
		}
	}
	return nil
}

// earlier picks an event that was sent: half the time one of the last few, else one from minutes ago.
func (g generator) earlier(r *rand.Rand, firstAt []int32, i int) int {
	sent := len(firstAt)
	if r.IntN(2) == 0 && i > farMin {
		at := int32(max(0, i-farMin-r.IntN(farMax-farMin)))
		lo, hi := 0, sent-1
		for lo < hi { // the last event first sent at or before that record
			mid := (lo + hi + 1) / 2
			if firstAt[mid] <= at {
				lo = mid
			} else {
				hi = mid - 1
			}
		}
		return lo
	}
	return sent - 1 - r.IntN(min(near, sent))
}

// appendJSON is the event as it is sent at a time.
func (e *event) appendJSON(b []byte, millis int64) []byte {
	b = append(b, `{"event_id":"`...)
	b = append(b, e.id...)
	b = append(b, `","user_id":`...)
	b = strconv.AppendUint(b, e.user, 10)
	b = append(b, `,"name":"`...)
	b = append(b, e.name...) // no name needs escaping
	b = append(b, `","email":"`...)
	b = append(b, e.email...)
	b = append(b, `","created_at":"`...)
	b = time.UnixMilli(millis).UTC().AppendFormat(b, "2006-01-02T15:04:05.000Z")
	return append(b, `"}`...)
}

// hash is over the row as rowHash in SQL sees it.
func (e *event) hash(b []byte, millis int64) uint64 {
	b = append(append(b[:0], e.id...), '|')
	b = append(strconv.AppendUint(b, e.user, 10), '|')
	b = append(append(b, e.name...), '|')
	b = append(append(b, e.email...), '|')
	return xxh3.Hash(strconv.AppendInt(b, millis, 10))
}

// produce sends all records to a new topic and returns what the table must hold. The key is the
// event's id, so a duplicate follows its event in the same partition and the first one is known.
func produce(ctx context.Context, broker string, g generator) (truth, error) {
	client, err := kgo.NewClient(
		kgo.SeedBrokers(broker),
		kgo.DefaultProduceTopic(demoTopic),
		kgo.RecordPartitioner(kgo.StickyKeyPartitioner(nil)),
		kgo.ProducerBatchMaxBytes(1<<20),
		kgo.MaxBufferedRecords(100_000),
		kgo.ProducerLinger(5*time.Millisecond),
	)
	if err != nil {
		return truth{}, err
	}
	defer client.Close()
	made, err := kadm.NewClient(client).CreateTopic(ctx, demoPartitions, 1, nil, demoTopic)
	if err == nil {
		err = made.Err
	}
	if err != nil {
		return truth{}, fmt.Errorf("make topic %s: %w", demoTopic, err)
	}
	var want truth
	var failed atomic.Pointer[error]
	scratch := make([]byte, 0, 256)
	err = g.each(func(n int, first bool, millis int64) error {
		e := g.event(n)
		if first {
			h := e.hash(scratch, millis)
			want.rows++
			want.sum += h
			want.xor ^= h
		}
		client.Produce(ctx, &kgo.Record{Key: []byte(e.id), Value: e.appendJSON(make([]byte, 0, 192), millis)},
			func(_ *kgo.Record, err error) {
				if err != nil {
					failed.CompareAndSwap(nil, &err)
				}
			})
		if p := failed.Load(); p != nil {
			return *p
		}
		return nil
	})
	if err == nil {
		err = client.Flush(ctx)
	}
	if p := failed.Load(); err == nil && p != nil {
		err = *p
	}
	return want, err
}
