package rows

import (
	"os"
	"testing"

	"sluice/gen/sluice/control/v1"
)

var events = []struct {
	name, file string
	columns    []*controlv1.SchemaColumn
}{
	{"200B_5fields", "event-200b.json", columnsOf("event_id|String", "user_id|UInt64", "name|String", "email|String",
		"created_at|DateTime64(3)")},
	{"1.5KB_35fields", "event-1500b.json", columnsOf(
		"event_id|UUID", "user_id|UInt64", "session_id|String", "tenant|LowCardinality(String)", "event_type|LowCardinality(String)",
		"created_at|DateTime64(3)", "received_at|DateTime64(3)", "name|String", "email|String", "phone|Nullable(String)",
		"country|FixedString(2)", "region|String", "city|String", "postcode|String", "street|String", "latitude|Float64",
		"longitude|Float64", "ip|String", "user_agent|String", "referrer|String", "url|String", "campaign|LowCardinality(String)",
		"medium|LowCardinality(String)", "source|LowCardinality(String)", "device|String", "os|String", "os_version|String",
		"browser|String", "browser_version|String", "screen_width|UInt16", "screen_height|UInt16", "price|Decimal(18, 2)",
		"quantity|UInt32", "currency|FixedString(3)", "is_new|Bool")},
}

func BenchmarkEvent(b *testing.B) {
	for _, e := range events {
		b.Run(e.name, func(b *testing.B) {
			value, err := os.ReadFile("testdata/" + e.file)
			if err != nil {
				b.Fatal(err)
			}
			p := newParser(b, e.columns, &controlv1.Dedup{Key: []string{"event_id"}})
			columns := p.plan.NewColumns()
			rec := Record{Topic: "events", Value: value}
			b.SetBytes(int64(len(value)))
			b.ReportAllocs()
			for b.Loop() {
				if _, reject := p.Parse(rec); reject != nil {
					b.Fatal(reject)
				}
				if reject := p.AppendTo(columns); reject != nil {
					b.Fatal(reject)
				}
				if columns[0].Rows() == 2000 {
					for _, c := range columns {
						c.Reset()
					}
				}
			}
		})
	}
}

func TestEventsAllocateNothing(t *testing.T) {
	for _, e := range events {
		value, err := os.ReadFile("testdata/" + e.file)
		if err != nil {
			t.Fatal(err)
		}
		p := newParser(t, e.columns, &controlv1.Dedup{Key: []string{"event_id", "name"}, Time: "created_at", Version: "user_id"})
		columns := p.plan.NewColumns()
		rec := Record{Topic: "events", Value: value}
		allocs := testing.AllocsPerRun(500, func() {
			if columns[0].Rows() == 100 {
				for _, c := range columns {
					c.Reset()
				}
			}
			if _, reject := p.Parse(rec); reject != nil {
				t.Fatal(reject)
			}
			if reject := p.AppendTo(columns); reject != nil {
				t.Fatal(reject)
			}
		})
		if allocs != 0 {
			t.Errorf("%s: %v allocations per event", e.name, allocs)
		}
	}
}
