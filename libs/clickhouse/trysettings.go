package clickhouse

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"

	driver "github.com/ClickHouse/clickhouse-go/v2"

	controlv1 "sluice/gen/sluice/control/v1"
)

// settingCodes are the server's answers that speak of a setting: it is not known, its value cannot be read, or the user may not change it.
var settingCodes = []int32{6, 26, 27, 36, 41, 69, 70, 72, 115, 164, 321, 407, 452, 467}

// TrySettings asks the server whether it takes the user's settings, each by itself, so that a wrong one is told when the pipeline is applied
// and not by inserts that fail for good. Each that is refused is a *ConfigError; any other error says that the server could not be asked. A
// server of before 20.1 is not asked: settings have types on its wire.
func TrySettings(ctx context.Context, sink *controlv1.ClickHouseSink) error {
	if len(sink.GetSettings()) == 0 {
		return nil
	}
	conn, err := open(ctx, sink)
	if err != nil {
		return err
	}
	defer conn.Close()
	server, err := conn.ServerVersion()
	if err != nil {
		return fmt.Errorf("clickhouse: ask for the version: %w", err)
	}
	if !(Version{int(server.Version.Major), int(server.Version.Minor)}).AtLeast(20, 1) {
		return nil
	}
	var refused []error
	for _, name := range slices.Sorted(maps.Keys(sink.GetSettings())) {
		value := sink.GetSettings()[name]
		var one uint8
		err := conn.QueryRow(driver.Context(ctx, driver.WithSettings(driver.Settings{name: value})), "SELECT 1").Scan(&one)
		var answer *driver.Exception
		switch {
		case err == nil:
		case errors.As(err, &answer) && slices.Contains(settingCodes, answer.Code):
			refused = append(refused, &ConfigError{"sink.clickhouse.settings." + name,
				fmt.Errorf("%s: the server refuses it: %s: correct or remove the setting", value, answer.Message)})
		default:
			return fmt.Errorf("clickhouse: try the setting %s: %w", name, err)
		}
	}
	return errors.Join(refused...)
}
