#!/usr/bin/env bash
# Makes the demo's table when it is not there.
set -euo pipefail
exec clickhouse-client --host clickhouse --query "$(cat /demo/table.sql)"
