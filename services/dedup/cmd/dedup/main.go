// Command dedup runs the dedup stage: it drops the duplicates of all pipelines that ask for it.
package main

import (
	"sluice/libs/service"
	"sluice/services/dedup"
)

func main() { service.Main("dedup", dedup.Build) }
