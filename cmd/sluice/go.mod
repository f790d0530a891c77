module sluice/cmd/sluice

go 1.26.0

require sluice/gen v0.0.0
require sluice/libs v0.0.0
require sluice/services/ingestor v0.0.0
require sluice/services/dedup v0.0.0
require sluice/services/sink v0.0.0
require sluice/services/control v0.0.0
replace sluice/gen => ../../gen
replace sluice/libs => ../../libs
replace sluice/services/ingestor => ../../services/ingestor
replace sluice/services/dedup => ../../services/dedup
replace sluice/services/sink => ../../services/sink
replace sluice/services/control => ../../services/control
