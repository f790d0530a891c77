package control

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	controlv1 "sluice/gen/sluice/control/v1"
	stagev1 "sluice/gen/sluice/stage/v1"
	"sluice/libs/registry"
	"sluice/libs/spec"
)

// unitName is a partition of a source, or a lane of a stage.
type unitName struct {
	stage, source string
	unit          uint32
}

func nameOf(u *stagev1.UnitStatus) unitName {
	return unitName{u.GetStage(), u.GetSource(), u.GetUnit()}
}

// String is the unit as the status names it within its stage.
func (n unitName) String() string { return registry.UnitName(n.source, n.unit) }

// addWaiting adds what a lane of the join keeps.
func addWaiting(st *controlv1.PipelineStatus, u *stagev1.UnitStatus) {
	for source, rows := range u.GetBufferedRows() {
		if st.BufferedRows == nil {
			st.BufferedRows = map[string]uint64{}
		}
		st.BufferedRows[source] += rows
	}
	for source, mark := range watermarks(u.GetWatermarkMs()) {
		if st.Watermarks == nil {
			st.Watermarks = map[string]*timestamppb.Timestamp{}
		}
		if lowest := st.Watermarks[source]; lowest == nil || mark.AsTime().Before(lowest.AsTime()) {
			st.Watermarks[source] = mark
		}
	}
}

func watermarks(bySource map[string]int64) map[string]*timestamppb.Timestamp {
	if len(bySource) == 0 {
		return nil
	}
	marks := make(map[string]*timestamppb.Timestamp, len(bySource))
	for source, ms := range bySource {
		marks[source] = timestamppb.New(time.UnixMilli(ms))
	}
	return marks
}

// troubles gathers what units wait for; the same trouble of several units of a stage is one.
type troubles []trouble

type trouble struct {
	stage string
	text  string
	units []unitName
}

func (t *troubles) add(unit unitName, text string) {
	for i, known := range *t {
		if known.stage == unit.stage && known.text == text {
			(*t)[i].units = append(known.units, unit)
			return
		}
	}
	*t = append(*t, trouble{unit.stage, text, []unitName{unit}})
}

func (t troubles) list(order []string) []string {
	slices.SortStableFunc(t, func(a, b trouble) int {
		return cmp.Compare(slices.Index(order, a.stage), slices.Index(order, b.stage))
	})
	var lines []string
	for _, one := range t {
		slices.SortFunc(one.units, func(a, b unitName) int { return cmp.Or(cmp.Compare(a.source, b.source), cmp.Compare(a.unit, b.unit)) })
		names := make([]string, len(one.units))
		for i, u := range one.units {
			names[i] = u.String()
		}
		unit := "lane"
		if one.stage == spec.StageIngest {
			unit = "partition"
		}
		if len(names) > 1 {
			unit += "s"
		}
		lines = append(lines, fmt.Sprintf("%s, %s %s: %s", one.stage, unit, strings.Join(names, " "), one.text))
	}
	return lines
}
