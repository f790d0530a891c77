package spec

import (
	"strings"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	controlv1 "sluice/gen/sluice/control/v1"
)

// What holds when a specification says nothing.
const (
	DefaultLanes     = 4
	DefaultBatchRows = 1_000_000
	DefaultBatchSize = 64 << 20 // bytes, before compression
	// DefaultMaxDelay with 4 lanes is 8 inserts a second, which ClickHouse merges with ease.
	DefaultMaxDelay = 500 * time.Millisecond
	DefaultDatabase = "default"
	DefaultUsername = "default"
	defaultGSSAPI   = "kafka"
	defaultKrb5Conf = "/etc/krb5.conf"
)

// Values of start that are not a time.
const (
	StartEarliest = "EARLIEST"
	StartLatest   = "LATEST"
)

// DefaultGroup is the consumer group of a pipeline that names none.
func DefaultGroup(id string) string { return "sluice-" + id }

// WithDefaults returns a copy of the specification in which every default is written out, `db.table`
// is taken apart and field paths are in their normal form. Doing it twice changes nothing more.
func WithDefaults(p *controlv1.Pipeline) *controlv1.Pipeline {
	p = proto.CloneOf(p)
	if p == nil {
		p = &controlv1.Pipeline{}
	}
	if p.Lanes == 0 {
		p.Lanes = DefaultLanes
	}
	kafkaDefaults(p)
	dedupDefaults(p.Dedup)
	clickhouseDefaults(p.GetSink().GetClickhouse())
	for _, c := range p.Columns {
		if c == nil {
			continue
		}
		if c.From == "" {
			c.From = c.Name
		} else {
			c.From = Path(c.From)
		}
	}
	if p.Batch == nil {
		p.Batch = &controlv1.Batch{}
	}
	if p.Batch.Rows == 0 {
		p.Batch.Rows = DefaultBatchRows
	}
	if p.Batch.Bytes == 0 {
		p.Batch.Bytes = DefaultBatchSize
	}
	if p.Batch.MaxDelay == nil {
		p.Batch.MaxDelay = durationpb.New(DefaultMaxDelay)
	}
	return p
}

func kafkaDefaults(p *controlv1.Pipeline) {
	k := p.GetSource().GetKafka()
	if k == nil {
		return
	}
	switch upper := strings.ToUpper(k.Start); upper {
	case "":
		k.Start = StartEarliest
	case StartEarliest, StartLatest:
		k.Start = upper
	}
	if k.Isolation == controlv1.Isolation_ISOLATION_UNSPECIFIED {
		k.Isolation = controlv1.Isolation_READ_COMMITTED
	}
	if k.Group == "" {
		k.Group = DefaultGroup(p.Id)
	}
	if k.GetSasl().GetMechanism() == controlv1.SASL_GSSAPI_KERBEROS {
		if k.Sasl.Gssapi == nil {
			k.Sasl.Gssapi = &controlv1.GSSAPI{}
		}
		if k.Sasl.Gssapi.ServiceName == "" {
			k.Sasl.Gssapi.ServiceName = defaultGSSAPI
		}
		if k.Sasl.Gssapi.ConfigFile == "" {
			k.Sasl.Gssapi.ConfigFile = defaultKrb5Conf
		}
	}
}

func dedupDefaults(d *controlv1.Dedup) {
	if d == nil {
		return
	}
	for i, key := range d.Key {
		d.Key[i] = Path(key)
	}
	d.Version = Path(d.Version)
	d.Time = Path(d.Time)
	if d.Keep == controlv1.Keep_KEEP_UNSPECIFIED {
		d.Keep = controlv1.Keep_FIRST
	}
	if d.MissingKey == controlv1.MissingKey_MISSING_KEY_UNSPECIFIED {
		d.MissingKey = controlv1.MissingKey_DEAD_LETTER
	}
}

func clickhouseDefaults(c *controlv1.ClickHouseSink) {
	if c == nil {
		return
	}
	if c.Database == "" {
		// A dot in the name of a table is rare and then the database must be named; db.table is what
		// people write.
		if database, table, ok := strings.Cut(c.Table, "."); ok && database != "" && table != "" && !strings.Contains(table, ".") {
			c.Database, c.Table = database, table
		} else {
			c.Database = DefaultDatabase
		}
	}
	if c.Username == "" {
		c.Username = DefaultUsername
	}
}
