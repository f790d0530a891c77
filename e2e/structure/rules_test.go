package structure

// rule forbids packages (from) to import others (deny).
type rule struct {
	name string
	why  string
	// from and except are import paths; "p/..." means p and everything below it.
	from, except []string
	deny, allow  []string
	// deep looks through the project's own packages: what they import counts as imported.
	deep bool
	// tests applies the rule to _test.go files as well.
	tests bool
	// clock forbids reading the time and starting goroutines too.
	clock bool
}

const (
	natsClient = "github.com/nats-io/..."
	sarama     = "github.com/IBM/sarama/..."
	franz      = "github.com/twmb/franz-go/..."
	clickhouse = "github.com/ClickHouse/clickhouse-go/..."
)

// pure are the packages whose results depend on their arguments alone.
var pure = []string{
	"sluice/services/dedup/internal/window", "sluice/services/sink/internal/block",
	"sluice/services/join/internal/match", "sluice/services/join/internal/state", "sluice/libs/watermark", "sluice/libs/ledger",
	"sluice/libs/jsonread", "sluice/libs/native", "sluice/libs/batch",
}

// rules is the direction of dependencies: gen ← libs ← services ← cmd/sluice.
var rules = []rule{
	{
		name: "gen depends on nothing of ours",
		why:  "it is what everything else, also in other languages, agrees on",
		from: []string{"sluice/gen/..."}, deny: []string{"sluice/..."}, allow: []string{"sluice/gen/..."}, tests: true,
	},
	{
		name: "libs know no service",
		why:  "what a library needs of a service would make all services one",
		from: []string{"sluice/libs/..."}, deny: []string{"sluice/services/...", "sluice/cmd/..."}, tests: true,
	},
	{
		name: "ingestor is alone", why: "services meet in the logs and in gRPC only, so that each can be run, scaled and replaced alone",
		from: []string{"sluice/services/ingestor/..."}, tests: true,
		deny: []string{"sluice/services/...", "sluice/cmd/..."}, allow: []string{"sluice/services/ingestor/..."},
	},
	{
		name: "dedup is alone", why: "as for ingestor",
		from: []string{"sluice/services/dedup/..."}, tests: true,
		deny: []string{"sluice/services/...", "sluice/cmd/..."}, allow: []string{"sluice/services/dedup/..."},
	},
	{
		name: "join is alone", why: "as for ingestor",
		from: []string{"sluice/services/join/..."}, tests: true,
		deny: []string{"sluice/services/...", "sluice/cmd/..."}, allow: []string{"sluice/services/join/..."},
	},
	{
		name: "sink is alone", why: "as for ingestor",
		from: []string{"sluice/services/sink/..."}, tests: true,
		deny: []string{"sluice/services/...", "sluice/cmd/..."}, allow: []string{"sluice/services/sink/..."},
	},
	{
		name: "control is alone", why: "as for ingestor",
		from: []string{"sluice/services/control/..."}, tests: true,
		deny: []string{"sluice/services/...", "sluice/cmd/..."}, allow: []string{"sluice/services/control/..."},
	},
	{
		name: "nobody imports e2e", why: "it drives processes; what two packages need belongs into libs",
		from: []string{"sluice/..."}, except: []string{"sluice/e2e/..."}, deny: []string{"sluice/e2e/..."}, tests: true,
	},
	{
		name: "nobody imports bench", why: "it is a program",
		from: []string{"sluice/..."}, except: []string{"sluice/bench/..."}, deny: []string{"sluice/bench/..."}, tests: true,
	},
	{
		name: "e2e and bench use no service", why: "they look at the programs from outside, as users do",
		from: []string{"sluice/e2e/...", "sluice/bench/..."}, deny: []string{"sluice/services/...", "sluice/cmd/..."}, tests: true,
	},
	{
		name: "the playground is for tests, dev, e2e and bench", why: "a service must not carry a server that it could run against by mistake",
		from: []string{"sluice/..."}, deny: []string{"sluice/libs/playground/..."},
		except: []string{"sluice/libs/playground/...", "sluice/cmd/sluice/...", "sluice/e2e/...", "sluice/bench/..."},
	},
	{
		name: "pure cores", why: "their results depend on their arguments alone: a stage that is replayed must decide the same again, and tests need no server",
		from: pure, deep: true, clock: true,
		deny: []string{
			natsClient, sarama, franz, clickhouse, "google.golang.org/grpc/...", "net/...", "os/...", "log/...",
			"context", "math/rand/...", "crypto/rand", "io/ioutil", "sluice/services/...",
			"sluice/libs/fencedlog", "sluice/libs/kafka", "sluice/libs/clickhouse", "sluice/libs/service", "sluice/libs/registry", "sluice/libs/lanes", "sluice/libs/checkpoint",
		},
		// Parsing an address is no I/O. A core may import its own sub-packages, which are cores then.
		allow: append([]string{"net/netip"}, pure...),
	},
	{
		name: "rows are made without Kafka or NATS", why: "the parser is tested and fuzzed without a broker",
		from: []string{"sluice/libs/rows"}, deny: []string{natsClient, sarama, franz},
	},
	{
		name: "tests stay out of production", why: "package testing registers flags; testify and rapid are large",
		from: []string{"sluice/..."}, except: []string{
			"sluice/e2e/...", "sluice/libs/playground/clickhouse/clickhousetest", "sluice/libs/playground/kafka/kafkatest", "sluice/libs/playground/nats/natstest",
		},
		deny: []string{"testing/...", "github.com/stretchr/testify/...", "pgregory.net/rapid/...", "go.uber.org/goleak/..."},
	},
	{
		name: "test support is for tests", why: "it needs package testing",
		from: []string{"sluice/..."}, except: []string{"sluice/e2e/..."},
		deny: []string{"sluice/libs/playground/clickhouse/clickhousetest", "sluice/libs/playground/kafka/kafkatest", "sluice/libs/playground/nats/natstest"},
	},
	{
		name: "one Kafka client in production", why: "ADR 2: sarama; what it does not tell is asked in libs/kafka",
		from: []string{"sluice/libs/...", "sluice/services/..."}, except: []string{"sluice/libs/playground/..."}, deny: []string{franz},
	},
	{
		name: "sarama is known to those who talk to Kafka", why: "errors and offsets have one interpretation",
		from: []string{"sluice/..."}, except: []string{"sluice/libs/kafka", "sluice/services/ingestor", "sluice/services/sink"}, deny: []string{sarama},
	},
	{
		name: "dedup and the logs know neither Kafka nor ClickHouse", why: "a middle stage works on any source and any target",
		from: []string{"sluice/services/dedup/...", "sluice/libs/fencedlog", "sluice/libs/checkpoint", "sluice/libs/lanes", "sluice/libs/registry"},
		deny: []string{sarama, franz, "github.com/ClickHouse/...", "sluice/libs/kafka", "sluice/libs/clickhouse"},
	},
	{
		name: "the join knows no client of Kafka or ClickHouse", why: "as for dedup; dead letters fetch their originals themselves",
		from: []string{"sluice/services/join/..."}, deny: []string{sarama, franz, "github.com/ClickHouse/...", "sluice/libs/kafka", "sluice/libs/clickhouse"},
	},
	{
		name: "the logs do not look into columns", why: "they carry bytes; only who takes batches apart needs the layout",
		from: []string{"sluice/libs/fencedlog", "sluice/libs/checkpoint", "sluice/libs/lanes", "sluice/libs/registry", "sluice/libs/fold"},
		deny: []string{"sluice/libs/native"},
	},
	{
		name: "servers are embedded in the playground only", why: "a service connects to NATS; standalone embeds it through the playground's package",
		from: []string{"sluice/..."}, except: []string{"sluice/libs/playground/..."},
		deny: []string{"github.com/nats-io/nats-server/...", "github.com/twmb/franz-go/pkg/kfake/...", "github.com/ebitengine/purego/..."},
	},
	{
		name: "the command line is in cmd", why: "a service's main is libs/service.Main",
		from: []string{"sluice/..."}, except: []string{"sluice/cmd/sluice/...", "sluice/libs/service"}, deny: []string{"github.com/spf13/cobra/..."},
	},
}
