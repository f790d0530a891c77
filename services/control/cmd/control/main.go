// Command control is the control service.
package main

import (
	controlv1 "sluice/gen/sluice/control/v1"
	"sluice/libs/service"
	"sluice/services/control"
)

func main() {
	service.Main("control", control.Build, &controlv1.PipelineService_ServiceDesc)
}
