package spec

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"time"

	"buf.build/go/protoyaml"
	"go.yaml.in/yaml/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
)

// days is the unit that protoyaml's durations lack and windows are thought in.
var days = regexp.MustCompile(`^([0-9]{1,6})d`)

// durations reads google.protobuf.Duration: 500ms, 24h, 7d, 1d12h.
type durations struct{}

// Unmarshal implements protoyaml.CustomUnmarshaler for durations and leaves all else alone.
func (durations) Unmarshal(node *yaml.Node, message proto.Message) (bool, error) {
	d, ok := message.(*durationpb.Duration)
	if !ok || node.Kind != yaml.ScalarNode || node.Value == "" || node.Tag == "!!null" {
		return false, nil
	}
	parsed, err := parseDuration(node.Value)
	if err != nil {
		return false, err
	}
	d.Seconds, d.Nanos = parsed.GetSeconds(), parsed.GetNanos()
	return true, nil
}

func parseDuration(text string) (*durationpb.Duration, error) {
	rest := text
	var seconds int64
	if m := days.FindStringSubmatch(text); m != nil {
		n, err := strconv.ParseInt(m[1], 10, 64)
		if err != nil {
			return nil, fmt.Errorf("duration %q: %w", text, err)
		}
		seconds, rest = n*24*60*60, text[len(m[0]):]
		if rest == "" {
			return &durationpb.Duration{Seconds: seconds}, nil
		}
		if rest[0] == '-' || rest[0] == '+' {
			return nil, fmt.Errorf("duration %q is not a number with a unit: write 500ms, 30s, 24h or 7d", text)
		}
	}
	d, err := protoyaml.ParseDuration(rest)
	if err != nil {
		return nil, fmt.Errorf("duration %q is not a number with a unit: write 500ms, 30s, 24h or 7d", text)
	}
	total := &durationpb.Duration{Seconds: seconds + d.GetSeconds(), Nanos: d.GetNanos()}
	if err := total.CheckValid(); err != nil {
		return nil, fmt.Errorf("duration %q is out of range", text)
	}
	return total, nil
}

// formatDuration is the shortest text that parseDuration reads back as d.
func formatDuration(d *durationpb.Duration) string {
	span := d.AsDuration()
	if span > 0 && span%(24*time.Hour) == 0 && span > 24*time.Hour {
		return strconv.FormatInt(int64(span/(24*time.Hour)), 10) + "d"
	}
	text := span.String()
	if cut, ok := strings.CutSuffix(text, "m0s"); ok {
		text = cut + "m"
	}
	if cut, ok := strings.CutSuffix(text, "h0m"); ok {
		text = cut + "h"
	}
	return text
}
