package clickhouse

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"time"

	"github.com/ClickHouse/ch-go/proto"
)

// ReceiveTimeout is for how long the server waits for the next bytes of an insert. What is sent takes no pause but for
// Guard, so a writer that is silent for so long is stopped or gone.
const ReceiveTimeout = 30 * time.Second

// reserved are the settings that make an insert repeatable, each with what depends on it.
var reserved = map[string]string{
	"insert_deduplication_token":                         "it names the block, so that a retry is recognised",
	"insert_deduplicate":                                 "without it a retried block is inserted twice",
	"deduplicate_insert":                                 "without it a retried block is inserted twice",
	"deduplicate_blocks_in_dependent_materialized_views": "without it a retried block is inserted twice into materialized views",
	"async_insert":                                       "an insert must be committed before it is confirmed, as a block of its own",
	"wait_for_async_insert":                              "an insert must be committed before it is confirmed",
	"async_insert_deduplicate":                           "inserts are never asynchronous",
	"distributed_foreground_insert":                      "an insert must be committed on the shards before it is confirmed",
	"insert_distributed_sync":                            "an insert must be committed on the shards before it is confirmed",
	"receive_timeout":                                    "the insert of a sink that was stopped must end soon, so that its successor can go on",
	"use_strict_insert_block_limits":                     "a block must stay one block",
}

// CheckSettings refuses user settings that would break the exactly-once protocol, all at once.
func CheckSettings(user map[string]string) error {
	var errs []error
	for _, name := range slices.Sorted(maps.Keys(user)) {
		if why, ok := reserved[name]; ok {
			errs = append(errs, &ConfigError{"sink.clickhouse.settings." + name,
				fmt.Errorf("%s: cannot be changed: %s: remove the setting", user[name], why)})
		}
	}
	return errors.Join(errs...)
}

// insertSettings are the settings of one insert. Settings are sent as important, so a server refuses
// those that it does not know: what a version lacks is left out.
func insertSettings(v Version, token string, user map[string]string) ([]proto.Setting, error) {
	if err := CheckSettings(user); err != nil {
		return nil, err
	}
	var out []proto.Setting
	add := func(key, value string) {
		out = append(out, proto.Setting{Key: key, Value: value, Important: true})
	}
	for _, name := range slices.Sorted(maps.Keys(user)) {
		add(name, user[name])
	}
	if v.AtLeast(21, 11) {
		add("async_insert", "0")
	}
	// A server looks whether an INSERT was killed only when data comes, or when none came for so long.
	add("receive_timeout", strconv.Itoa(int(ReceiveTimeout/time.Second)))
	if v.HasTokens() {
		if token != "" {
			add("insert_deduplication_token", token)
		}
		add("insert_deduplicate", "1")
		add("deduplicate_blocks_in_dependent_materialized_views", "1")
	}
	if v.AtLeast(26, 2) {
		// From here on this one overrides insert_deduplicate (ClickHouse #95970).
		add("deduplicate_insert", "enable")
	}
	switch {
	case v.AtLeast(23, 11):
		add("distributed_foreground_insert", "1")
	case v.AtLeast(20, 1):
		add("insert_distributed_sync", "1")
	}
	return out, nil
}
