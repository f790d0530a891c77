package kafka_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	controlv1 "sluice/gen/sluice/control/v1"
	"sluice/libs/kafka"
	playground "sluice/libs/playground/kafka"
	"sluice/libs/playground/kafka/kafkatest"
)

func readAll(t *testing.T, c *kafka.Cluster, from, to int64, i controlv1.Isolation) (offsets []int64, values []string, err error) {
	t.Helper()
	for m, err := range c.Records(t.Context(), "t", 0, from, to, i) {
		if err != nil {
			return offsets, values, err
		}
		offsets, values = append(offsets, m.Offset), append(values, string(m.Value))
	}
	return offsets, values, nil
}

func TestRecords(t *testing.T) {
	b := kafkatest.OpenFake(t, playground.Config{Topics: map[string]int32{"t": 1}})
	c, w := open(t, source(b.Addr(), "t")), client(t, b.Addr())
	large := strings.Repeat("x", 300<<10) // several rounds of fetching
	var want []string
	for i := range 20 {
		want = append(want, fmt.Sprint(i, large))
	}
	produce(t, w, "t", 0, want...)

	offsets, values, err := readAll(t, c, 3, 18, committed)
	require.NoError(t, err)
	require.Equal(t, want[3:18], values)
	require.EqualValues(t, 3, offsets[0])
	for m, err := range c.Records(t.Context(), "t", 0, 5, 20, committed) {
		require.NoError(t, err)
		require.EqualValues(t, 5, m.Offset)
		break // who has enough leaves
	}
	_, values, err = readAll(t, c, 7, 7, committed)
	require.NoError(t, err)
	require.Empty(t, values)

	require.NoError(t, b.Cluster().DeleteRecords("t", 0, 6))
	offsets, _, err = readAll(t, c, 0, 20, committed)
	require.NoError(t, err)
	require.EqualValues(t, 6, offsets[0], "what has expired is passed over")
	require.Len(t, offsets, 14)

	_, values, err = readAll(t, c, 19, 30, committed)
	require.ErrorIs(t, err, kafka.ErrBeyondEnd)
	require.Len(t, values, 1)
}
