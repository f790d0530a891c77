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

// What holds when a join says nothing.
const (
	DefaultGrace      = 10 * time.Second
	DefaultIdle       = 30 * time.Second
	DefaultMaxFuture  = time.Hour
	DefaultJoinMemory = 256 << 20 // bytes of a lane
)

// DefaultGroup is the consumer group of a pipeline that names none.
func DefaultGroup(id string) string { return "sluice-" + id }

// DefaultSourceGroup is the same for one source of a join.
func DefaultSourceGroup(id, source string) string { return DefaultGroup(id) + "-" + source }

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
	sourceDefaults(p.Source, DefaultGroup(p.Id))
	for name, source := range p.Sources {
		sourceDefaults(source, DefaultSourceGroup(p.Id, name))
	}
	dedupDefaults(p.Dedup)
	joinDefaults(p.Join)
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
		if source, path, ok := Qualified(p, c.From); ok {
			c.From = source + "." + path
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

func sourceDefaults(source *controlv1.Source, group string) {
	if source == nil {
		return
	}
	kafkaDefaults(source.Kafka, group)
	dedupDefaults(source.Dedup)
	source.Time = Path(source.Time)
}

func joinDefaults(j *controlv1.Join) {
	if j == nil {
		return
	}
	for _, on := range j.On {
		if on != nil {
			on.Left, on.Right = Path(on.Left), Path(on.Right)
		}
	}
	if j.Kind == controlv1.Join_KIND_UNSPECIFIED {
		j.Kind = controlv1.Join_INTERVAL
	}
	if j.Type == controlv1.Join_TYPE_UNSPECIFIED {
		j.Type = controlv1.Join_INNER
	}
	if j.Grace == nil {
		j.Grace = durationpb.New(DefaultGrace)
	}
	if j.Idle == nil {
		j.Idle = durationpb.New(DefaultIdle)
	}
	if j.MaxFuture == nil {
		j.MaxFuture = durationpb.New(DefaultMaxFuture)
	}
	if j.Memory == 0 {
		j.Memory = DefaultJoinMemory
	}
}

func kafkaDefaults(k *controlv1.KafkaSource, group string) {
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
		k.Group = group
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
