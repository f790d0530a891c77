// Package nomad checks the jobs in deploy/nomad with Nomad's own parser, of the last version that is wholly under
// the MPL (1.6.1; from 1.7 on Nomad is under the BUSL). What it takes, later versions take too.
//
// Checked: that they parse, with their defaults and with every variable given, and what they make of each group: what scales,
// what is checked for health, how long a stop may take. Not checked: that a Nomad agent runs them.
package nomad
