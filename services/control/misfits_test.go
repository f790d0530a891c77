package control_test

import (
	"testing"

	"github.com/stretchr/testify/require"
)

// Values that the columns do not take are told of when the pipeline is applied, not first by the dead letters.
func TestSampledValuesAreTried(t *testing.T) {
	s := newSite(t)
	s.topic("orders", 1,
		`{"event_id":"a","amount":"abc","user":{"city":"Bern"},"small":1}`,
		`{"event_id":"b","amount":"12","user":{"city":"Bern"},"small":-1}`,
		`{"event_id":"c","amount":-3,"user":{"city":"Bern"},"small":null}`,
		`{"event_id":"d","amount":4,"user":{"city":"Bern"}}`,
		`{"amount":5,"user":{"city":"Bern"},"small":1}`,
		`not JSON`,
	)
	s.sql("CREATE TABLE DB.orders (event_id String, city FixedString(2), amount UInt32, small UInt8, at DateTime) ENGINE = MergeTree ORDER BY event_id SETTINGS non_replicated_deduplication_window = 10000")
	resp := s.create(s.parse(orders))
	require.Equal(t, []string{
		`column event_id String: 1 of 6 sampled events go to the dead letters: missing field`,
		`column city FixedString(2) from user.city: 5 of 6 sampled events go to the dead letters: "Bern" is longer than FixedString(2)`,
		`column amount UInt32: 2 of 6 sampled events go to the dead letters: "abc" is not a UInt32`,
		`column small UInt8: 3 of 6 sampled events go to the dead letters: -1 does not fit UInt8`,
		`JSON: 1 of 6 sampled events go to the dead letters: invalid JSON at byte 0: the document must be an object, found "n"`,
	}, resp.Warnings)
}

// Each source of a join is held against the columns that it fills.
func TestSampledValuesOfAJoinAreTried(t *testing.T) {
	s := newSite(t)
	s.topic("orders", 2, `{"order_id":1,"user_id":7,"amount":3.5}`, `{"order_id":2,"user_id":8,"amount":4}`)
	s.topic("users", 1, `{"id":7,"name":"Ada","city":null}`, `{"id":7,"name":"Ada","city":"Bern"}`)
	s.sql(enrichedTable)
	resp := s.create(s.parse(enriched))
	require.Contains(t, resp.Warnings, "column amount Int64: 1 of 2 sampled events of orders go to the dead letters: 3.5 has digits that Int64 would lose")
	require.Contains(t, resp.Warnings, "column city String: 1 of 2 sampled events of users go to the dead letters: null in a non-Nullable column")
}
