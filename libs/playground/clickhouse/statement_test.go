package clickhouse

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestParseInsert(t *testing.T) {
	for query, want := range map[string]statement{
		"INSERT INTO t VALUES":                                     {kind: insertRows, target: "t", head: "INSERT INTO t", format: "Values"},
		"insert into `d`.t (a, `b)c`) FORMAT Native":               {kind: insertRows, target: "`d`.t", columns: "a, `b)c`", head: "insert into `d`.t (a, `b)c`)", format: "Native"},
		"INSERT INTO t (a) SETTINGS x = 'VALUES (', y=1 VALUES ; ": {kind: insertRows, target: "t", columns: "a", head: "INSERT INTO t (a)", settings: "SETTINGS x = 'VALUES (', y=1", format: "Values"},
		"INSERT INTO TABLE t -- VALUES\n VALUES (1)":               {kind: other, target: "t", head: "INSERT INTO TABLE t", format: "Values", inline: "(1)"},
		"INSERT INTO t SELECT 1":                                   {kind: other, target: "t", head: "INSERT INTO t"},
		"INSERT INTO t (SELECT 1)":                                 {kind: other, target: "t", head: "INSERT INTO t"},
		"INSERT INTO FUNCTION null('x UInt8') (x) VALUES":          {kind: insertRows, target: "null('x UInt8')", columns: "x", head: "INSERT INTO FUNCTION null('x UInt8') (x)", format: "Values"},
		"INSERT INTO t FORMAT JSONEachRow {\"a\":1}":               {kind: insertRows, target: "t", head: "INSERT INTO t", format: "JSONEachRow", inline: "{\"a\":1}"},
	} {
		got, err := parseStatement(query)
		require.NoError(t, err, query)
		want.text, want.word, want.insert = query, "INSERT", true
		require.Equal(t, want, *got, query)
	}
}

func TestParseStatement(t *testing.T) {
	for query, want := range map[string]string{
		"SELECT 1 FORMAT JSON":                               "SELECT 1 ",
		"SELECT 1 FORMAT JSON SETTINGS a = 1;":               "SELECT 1 SETTINGS a = 1",
		"SELECT 1 INTO OUTFILE 'x' TRUNCATE FORMAT CSV":      "SELECT 1 ",
		"SELECT format FROM (SELECT ';' AS format /* ; */)":  "SELECT format FROM (SELECT ';' AS format /* ; */)",
		"SELECT $$;$$, $a$ ' $a$ -- ;":                       "SELECT $$;$$, $a$ ' $a$ -- ;",
		"CREATE TABLE t (a Int8) ENGINE = Kafka FORMAT JSON": "CREATE TABLE t (a Int8) ENGINE = Kafka FORMAT JSON",
		"DROP TABLE t SYNC":                                  "DROP TABLE t ",
	} {
		got, err := parseStatement(query)
		require.NoError(t, err, query)
		require.Equal(t, want, got.text, query)
	}
	for _, query := range []string{"SELECT 1; SELECT 2", "INSERT INTO t VALUES (1); SELECT 1", "", " -- nothing"} {
		_, err := parseStatement(query)
		require.Error(t, err, query)
	}
}

func TestKilledPrefix(t *testing.T) {
	for query, want := range map[string]string{
		`KILL QUERY WHERE query_id LIKE 'sluice-p-%' SYNC`:     "sluice-p-",
		`KILL QUERY WHERE query_id LIKE 'sluice-a\\_b-%' SYNC`: "sluice-a_b-",
		`KILL QUERY WHERE query_id LIKE 'a%b'`:                 "",
		`KILL QUERY WHERE query_id LIKE 'a'`:                   "",
		`KILL QUERY WHERE query_id LIKE 'a%' OR 1`:             "",
	} {
		got, ok := killedPrefix(query)
		require.Equal(t, want != "", ok, query)
		if ok {
			require.Equal(t, want, got, query)
		}
	}
}

func TestKilledIDs(t *testing.T) {
	for query, want := range map[string][]string{
		"KILL QUERY WHERE query_id = 'a''b' SYNC":      {"a'b"},
		"KILL QUERY WHERE query_id='a'":                {"a"},
		"KILL QUERY WHERE query_id IN ('a', 'b') SYNC": {"a", "b"},
		"KILL QUERY WHERE user = 'default'":            nil,
		"KILL QUERY WHERE query_id = 'a' TEST":         nil,
		"KILL QUERY WHERE query_id = 'a' OR 1":         nil,
	} {
		got, ok := killedIDs(query)
		require.Equal(t, want != nil, ok, query)
		require.Equal(t, want, got, query)
	}
}
