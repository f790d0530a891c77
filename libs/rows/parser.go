package rows

import (
	"errors"
	"fmt"

	"sluice/libs/jsonread"
	"sluice/libs/native"
	"sluice/libs/spec"
)

// Parser makes rows by a plan. It is reusable, not concurrent.
type Parser struct {
	plan   *Plan
	reader *jsonread.Reader
	// record and values are the record last parsed: they share its memory.
	record    Record
	values    []jsonread.Value
	canonical []byte
	scratch   []byte
}

// NewParser makes a parser by p.
func NewParser(p *Plan) *Parser {
	return &Parser{
		plan:   p,
		reader: jsonread.NewReader(p.json, jsonread.Limits{}),
		values: make([]jsonread.Value, len(p.paths)),
	}
}

// Parse reads a record. AppendTo then appends it; until then the record's memory must stay as it is.
func (p *Parser) Parse(rec Record) (Row, *Reject) {
	p.record = rec
	if err := p.reader.Read(rec.Value, p.values); err != nil {
		var e *jsonread.Error
		if !errors.As(err, &e) {
			return Row{}, &Reject{Reason: err.Error()}
		}
		return Row{}, &Reject{Field: e.Field, Reason: fmt.Sprintf("invalid JSON at byte %d: %s", e.Offset, e.Reason)}
	}
	var row Row
	row.Offset = rec.Offset
	if reject := p.key(&row); reject != nil {
		return Row{}, reject
	}
	row.NoTime = p.plan.time < 0
	// An event that passes without a key is compared with nothing: what it lacks is no fault.
	if at := p.plan.time; at >= 0 {
		ms, reason := p.eventTime(p.values[at])
		if reason != "" && !row.NoKey {
			return Row{}, &Reject{Field: p.plan.paths[at], Reason: reason}
		}
		row.TimeMS, row.NoTime = ms, reason != ""
	}
	if at := p.plan.version; at >= 0 {
		version, reason := p.versionOf(p.values[at])
		if reason != "" && !row.NoKey {
			return Row{}, &Reject{Field: p.plan.paths[at], Reason: reason}
		}
		row.Version = version
	}
	if p.plan.join {
		if reject := p.joined(&row); reject != nil {
			return Row{}, reject
		}
	}
	return row, nil
}

// joined sets what the join needs. An event without the key is equal to nothing, which is no fault; one without a time is.
func (p *Parser) joined(row *Row) *Reject {
	if at := p.plan.eventTime; at >= 0 {
		ms, reason := p.eventTime(p.values[at])
		if reason != "" {
			return &Reject{Field: p.plan.paths[at], Reason: reason}
		}
		row.EventMS = ms
	} else if row.EventMS = p.record.TimestampMS; row.EventMS < 0 {
		return &Reject{Field: spec.MetaTimestamp, Reason: "the record has no timestamp to be joined by; name a field of the event with time"}
	}
	for _, at := range p.plan.joinKey {
		if p.values[at].Kind <= jsonread.Null {
			return nil
		}
	}
	row.JoinKey = p.fingerprint(p.plan.joinKey)
	return nil
}

// key sets the fingerprint of the key, if there is one.
func (p *Parser) key(row *Row) *Reject {
	if len(p.plan.key) == 0 {
		row.NoKey = true
		return nil
	}
	for _, at := range p.plan.key {
		v := p.values[at]
		if v.Kind > jsonread.Null {
			continue
		}
		if p.plan.passKeyless {
			row.NoKey = true
			return nil
		}
		reason := "missing key field"
		if v.Kind == jsonread.Null {
			reason = "missing key: the field is null"
		}
		return &Reject{Field: p.plan.paths[at], Reason: reason}
	}
	row.Key = p.fingerprint(p.plan.key)
	return nil
}

// fingerprint is XXH3-128 of the fields' canonical bytes, in the given order. Which fields they are does not matter: the keys of
// both sides of a join meet.
func (p *Parser) fingerprint(fields []int) [2]uint64 {
	p.canonical = p.canonical[:0]
	for _, at := range fields {
		p.canonical = p.values[at].AppendCanonical(p.canonical)
	}
	return hashOf(p.canonical)
}

// AppendTo appends the record last parsed to cols, one for each column of the plan in its order:
// to all of them or, when it is refused, to none.
func (p *Parser) AppendTo(cols []*native.Column) *Reject {
	for i := range p.plan.columns {
		c := &p.plan.columns[i]
		reject := p.appendColumn(c, cols[i])
		if reject == nil {
			continue
		}
		for _, done := range cols[:i] {
			done.Truncate(done.Rows() - 1)
		}
		return reject
	}
	return nil
}

func (p *Parser) appendColumn(c *column, to *native.Column) *Reject {
	var err error
	if c.path >= 0 {
		err = to.AppendJSON(p.values[c.path])
	} else {
		err = p.appendMetadata(c, to)
	}
	if err != nil {
		return p.plan.reject(c, err.Error())
	}
	return nil
}

// reject names the column too, where it is not called like its field.
func (p *Plan) reject(c *column, reason string) *Reject {
	if c.name != c.from {
		reason = fmt.Sprintf("column %q: %s", c.name, reason)
	}
	return &Reject{Field: c.from, Reason: reason}
}
