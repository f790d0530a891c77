package rows

import (
	"fmt"

	"github.com/zeebo/xxh3"

	"sluice/libs/batch"
	"sluice/libs/jsonread"
)

// keylessBlock is how many offsets in a row go to one lane when events have no key.
const keylessBlock = 4096

// Lane is the share of an event in a set of so many lanes, by its key, so that equal keys meet in one lane: those of dedup, else those of the
// join, else Kafka's. It never changes for a set: state and order hang on it.
func (p *Plan) Lane(row Row, kafkaKey []byte, partition int32, lanes int) int {
	switch {
	case p.Dedup() && !row.NoKey:
		return batch.Share(row.Key[0], lanes)
	case p.join:
		return batch.Share(row.JoinKey[0], lanes) // without one: the first
	case kafkaKey != nil:
		return batch.Share(xxh3.Hash(kafkaKey), lanes)
	default:
		return int((uint64(row.Offset)/keylessBlock + uint64(partition)) % uint64(lanes))
	}
}

// LaneOfJoin is the lane in which a row meets its counterparts.
func (p *Plan) LaneOfJoin(row Row, lanes int) int { return batch.Share(row.JoinKey[0], lanes) }

// fields are those by which a user names events: the dedup key, else the join key.
func (p *Plan) fields() []int {
	if p.Dedup() {
		return p.key
	}
	return p.joinKey
}

// HasKey tells whether a row has the key that KeyOf has returned.
func (p *Plan) HasKey(row Row, key [2]uint64) bool {
	if p.Dedup() {
		return !row.NoKey && row.Key == key
	}
	return row.JoinKey == key
}

// KeyOf is the fingerprint of a key that is given as JSON, one value for each of its fields: the dedup key's, else the join key's.
func (p *Plan) KeyOf(values []string) ([2]uint64, error) {
	fields := p.fields()
	if len(fields) == 0 {
		return [2]uint64{}, fmt.Errorf("the events have no key: there is no dedup and no join")
	}
	if len(values) != len(fields) {
		return [2]uint64{}, fmt.Errorf("%d values for the %d fields of the key", len(values), len(fields))
	}
	plan, err := jsonread.NewPlan([]string{"value"})
	if err != nil {
		return [2]uint64{}, err
	}
	reader, found := jsonread.NewReader(plan, jsonread.Limits{}), make([]jsonread.Value, 1)
	var canonical []byte
	for i, value := range values {
		if err := reader.Read([]byte(`{"value":`+value+`}`), found); err != nil {
			return [2]uint64{}, fmt.Errorf("%s: %s is not a JSON value; a string is written in quotes", p.paths[fields[i]], value)
		}
		if found[0].Kind <= jsonread.Null {
			return [2]uint64{}, fmt.Errorf("%s: an event whose key is null has no key", p.paths[fields[i]])
		}
		canonical = found[0].AppendCanonical(canonical)
	}
	return hashOf(canonical), nil
}

func hashOf(canonical []byte) [2]uint64 {
	sum := xxh3.Hash128(canonical)
	if sum.Lo == 0 && sum.Hi == 0 {
		sum.Lo = 1 // zero stands for no key
	}
	return [2]uint64{sum.Lo, sum.Hi}
}
