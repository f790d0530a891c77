#!/usr/bin/env bash
# Makes the demo's topic when it is not there.
set -euo pipefail
exec /opt/kafka/bin/kafka-topics.sh --bootstrap-server kafka:9092 --create --if-not-exists \
  --topic clicks --partitions 4 --replication-factor 1
