//go:build linux

package standin

import (
	"fmt"
	"path"
	"path/filepath"
	"strings"
)

// Parts are the programs that images are made of, as paths on this machine.
type Parts struct {
	// Busybox and Bash are static programs.
	Busybox, Bash string
	// NATS is nats-server, Jaeger Jaeger's all-in-one.
	NATS, Jaeger string
	// KafkaLib holds Kafka's jars, KafkaTools is the jar of its command line, JavaHome a Java runtime.
	KafkaLib, KafkaTools, JavaHome string
	// Sluice is the sluice program that can load the engine; Engine is libchdb.so; Client is a program that
	// takes clickhouse-client's --host and --query.
	Sluice, Engine, Client string
	// GoRoot is the Go toolchain's directory.
	GoRoot string
	// Modules is a directory that Go's GOPROXY=file:// serves modules from, Compiled are files of a build cache.
	Modules  string
	Compiled []string
}

// recipe finds the image of a tag by its repository.
func (p Parts) recipe(tag string) (image, error) {
	repository, _, _ := strings.Cut(tag, ":")
	switch repository {
	case "golang":
		return p.golang(), nil
	case "apache/kafka":
		return p.kafka(), nil
	case "nats":
		return p.nats(), nil
	case "clickhouse/clickhouse-server":
		return p.clickhouse(), nil
	case "jaegertracing/jaeger":
		return p.jaeger(), nil
	}
	return image{}, fmt.Errorf("there is no stand-in for the image %s", tag)
}

// golang is the toolchain that runs this test. Modules come from a directory: the builds have no network.
func (p Parts) golang() image {
	return image{
		config: []string{
			"ENV PATH=/usr/local/go/bin:/bin GOPATH=/go GOPROXY=file:///modules GOSUMDB=off GOFLAGS=-buildvcs=false GOCACHE=/cache",
			"WORKDIR /go",
		},
		inputs: []string{p.Busybox, filepath.Join(p.GoRoot, "bin", "go"), p.Modules},
		names:  p.Compiled,
		write: func(r *rootfs) {
			r.shell(p.Busybox)
			r.tree("/usr/local/go", p.GoRoot, func(rel string) bool {
				return rel == "test" || rel == "api" || rel == "doc" || rel == "misc" || strings.HasSuffix(rel, "/testdata")
			})
			r.tree("/modules", p.Modules, nil)
			for _, file := range p.Compiled {
				r.file(path.Join("/cache", filepath.Base(filepath.Dir(file)), filepath.Base(file)), file)
			}
			r.file("/etc/ssl/certs/ca-certificates.crt", "/etc/ssl/certs/ca-certificates.crt")
		},
	}
}

func (p Parts) nats() image {
	return image{
		config: []string{`ENTRYPOINT ["docker-entrypoint.sh"]`, "ENV PATH=/usr/local/bin:/bin"},
		inputs: []string{p.Busybox, p.NATS},
		write: func(r *rootfs) {
			r.shell(p.Busybox)
			r.program("/usr/local/bin/nats-server", p.NATS)
			// As the published image does: arguments alone are nats-server's.
			r.text("/usr/local/bin/docker-entrypoint.sh", "#!/bin/sh\nset -e\ncase \"${1--}\" in -*) set -- nats-server \"$@\";; esac\nexec \"$@\"\n", 0o755)
		},
	}
}

func (p Parts) jaeger() image {
	return image{
		config: []string{
			`ENTRYPOINT ["/cmd/jaeger/jaeger-linux"]`, "USER 10001", `VOLUME ["/tmp"]`,
			"ENV PATH=/bin",
		},
		inputs: []string{p.Busybox, p.Jaeger},
		write: func(r *rootfs) {
			r.shell(p.Busybox)
			r.program("/cmd/jaeger/all-in-one", p.Jaeger)
			r.text("/cmd/jaeger/jaeger-linux", jaegerV2, 0o755)
		},
	}
}

// clickhouse is the engine behind its native protocol. It has no HTTP port and reads no configuration files.
func (p Parts) clickhouse() image {
	return image{
		config: []string{
			`ENTRYPOINT ["/usr/bin/sluice", "dev", "clickhouse", "--listen", "0.0.0.0:9000", "--dir", "/var/lib/clickhouse"]`,
			"ENV PATH=/usr/bin:/bin SLUICE_CHDB_LIB=/usr/lib/libchdb.so TZ=Etc/UTC",
			"VOLUME /var/lib/clickhouse",
		},
		inputs: []string{p.Busybox, p.Bash, p.Sluice, p.Engine, p.Client},
		write: func(r *rootfs) {
			r.shell(p.Busybox)
			r.file("/bin/bash", p.Bash)
			r.link("/usr/bin/env", "/bin/env")
			r.program("/usr/bin/sluice", p.Sluice)
			r.program("/usr/lib/libchdb.so", p.Engine)
			r.program("/usr/bin/clickhouse-client", p.Client)
			// Debian's client wants to know the time zone.
			r.tree("/usr/share/zoneinfo/Etc", "/usr/share/zoneinfo/Etc", nil)
			r.link("/etc/localtime", "/usr/share/zoneinfo/Etc/UTC")
			r.dir("/var/lib/clickhouse", 0o755, 101)
			r.dir("/etc/clickhouse-server/config.d", 0o755, 0)
		},
	}
}

// jaegerV2 takes the one setting of Jaeger v2 that compose.yaml makes, under the name that v1 has for it.
const jaegerV2 = `#!/bin/sh
limit=--set=extensions.jaeger_storage.backends.some_storage.memory.max_traces
for setting in "$@"; do
  case $setting in
  "$limit"=*) set -- --memory.max-traces "${setting#*max_traces=}" ;;
  *) echo "unknown: $setting" >&2; exit 1 ;;
  esac
done
exec /cmd/jaeger/all-in-one "$@"
`
