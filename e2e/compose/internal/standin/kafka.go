//go:build linux

package standin

import (
	"io/fs"
	"path/filepath"
	"strings"
)

// kafka is Apache Kafka with the interface of its image: KAFKA_ variables become settings by Kafka's own
// KafkaDockerWrapper, in /opt/kafka/config; data is where KAFKA_LOG_DIRS says; the tools are in
// /opt/kafka/bin; the user is appuser, 1000.
func (p Parts) kafka() image {
	return image{
		config: []string{
			`CMD ["/etc/kafka/docker/run"]`, "USER 1000", "EXPOSE 9092",
			"ENV PATH=/opt/java/openjdk/bin:/bin JAVA_HOME=/opt/java/openjdk LD_LIBRARY_PATH=/opt/java/openjdk/lib",
			`VOLUME ["/etc/kafka/secrets", "/var/lib/kafka/data", "/mnt/shared/config"]`,
		},
		inputs: []string{p.Busybox, p.Bash, filepath.Join(p.JavaHome, "bin", "java"), p.KafkaLib, p.KafkaTools},
		write: func(r *rootfs) {
			r.shell(p.Busybox)
			r.file("/bin/bash", p.Bash)
			r.link("/usr/bin/env", "/bin/env")
			r.tree("/opt/java/openjdk", p.JavaHome, nil)
			r.err = firstOf(r.err, filepath.WalkDir(p.JavaHome, func(path string, d fs.DirEntry, err error) error {
				if err == nil && d.Type().IsRegular() && (strings.HasSuffix(path, ".so") || strings.HasSuffix(path, "/bin/java")) {
					r.libraries(path)
				}
				return err
			}))
			r.dir("/opt/kafka/config", 0o755, 1000)
			r.tree("/opt/kafka/libs", p.KafkaLib, nil)
			r.file("/opt/kafka/libs/"+filepath.Base(p.KafkaTools), p.KafkaTools)
			for tool, class := range map[string]string{
				"kafka-topics.sh":           "org.apache.kafka.tools.TopicCommand",
				"kafka-console-producer.sh": "org.apache.kafka.tools.ConsoleProducer",
			} {
				r.text("/opt/kafka/bin/"+tool, "#!/usr/bin/env bash\nexec java ${KAFKA_HEAP_OPTS:--Xmx256m} "+
					"-cp '/opt/kafka/libs/*' "+class+" \"$@\"\n", 0o755)
			}
			r.dir("/var/lib/kafka/data", 0o755, 1000)
			r.dir("/etc/kafka/secrets", 0o755, 1000)
			r.dir("/mnt/shared/config", 0o755, 1000)
			r.text("/etc/kafka/docker/run", kafkaRun, 0o755)
			// With any KAFKA_ variable set these defaults are not used; the wrapper wants them to be there.
			r.text("/etc/kafka/docker/server.properties", "process.roles=broker,controller\n", 0o644)
			for _, name := range []string{"log4j2.yaml", "tools-log4j2.yaml"} {
				r.text("/etc/kafka/docker/"+name, kafkaLog, 0o644)
			}
		},
	}
}

// kafkaRun does what the image's run, configure and launch scripts do for a broker that is configured by
// variables.
const kafkaRun = `#!/usr/bin/env bash
set -e
export CLUSTER_ID=${CLUSTER_ID:-5L6g3nShT-eMCtK--X86sw}
[ -w /opt/kafka/config/ ] || { echo "/opt/kafka/config/ file not writable"; exit 1; }
mkdir -p "${LOG_DIR:-/opt/kafka/logs}"
result=$(java -Xmx256m -cp '/opt/kafka/libs/*' kafka.docker.KafkaDockerWrapper setup \
  --default-configs-dir /etc/kafka/docker --mounted-configs-dir /mnt/shared/config \
  --final-configs-dir /opt/kafka/config 2>&1) || echo "$result" | grep -i "already formatted" || { echo "$result"; exit 1; }
exec java ${KAFKA_HEAP_OPTS:--Xmx1G -Xms1G} -cp '/opt/kafka/libs/*' kafka.Kafka /opt/kafka/config/server.properties
`

const kafkaLog = `Configuration:
  Properties:
    Property: []
  Appenders:
    Console: {name: STDOUT}
  Loggers:
    Root: {level: INFO, AppenderRef: {ref: STDOUT}}
    Logger: []
`

func firstOf(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}
