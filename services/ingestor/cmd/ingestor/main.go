// Command ingestor runs the ingest stage: it reads Kafka topics into the logs of their pipelines.
package main

import (
	"sluice/libs/service"
	"sluice/services/ingestor"
)

func main() { service.Main("ingestor", ingestor.Build) }
