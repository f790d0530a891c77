module sluice/services/sink

go 1.26.0

require sluice/gen v0.0.0
require sluice/libs v0.0.0
replace sluice/gen => ../../gen
replace sluice/libs => ../../libs
