#!/usr/bin/env bash
# Produces RATE events a second, every tenth of them once more, EVENTS in all (0: without end). The ids
# begin with the time of the start, so that another run makes other events.
set -euo pipefail
rate=${RATE:-500} events=${EVENTS:-0} run=$(date +%s) n=0
echo "clicks: $rate events a second and a tenth of them again, run $run" >&2
while ((events == 0 || n < events)); do
  next=$((n + rate))
  if ((events > 0 && next > events)); then next=$events; fi
  awk -v run="$run" -v from="$n" -v to="$next" -v at="$(date +%s)000" 'BEGIN {
    for (i = from; i < to; i++) {
      click = sprintf("{\"click_id\":\"%s-%d\",\"user_id\":%d,\"page\":\"/page/%d\",\"at\":%s}", run, i, i % 997, i % 31, at)
      print click
      if (i % 10 == 0) print click
    }
  }'
  n=$next
  sleep 1
done | /opt/kafka/bin/kafka-console-producer.sh --bootstrap-server kafka:9092 --topic clicks
