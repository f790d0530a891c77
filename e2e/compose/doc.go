// Package compose tests compose.yaml, deploy/Dockerfile and deploy/nomad: what a user's machine makes
// of them.
//
// What is checked without an engine (make test): the file as `docker compose config` understands it,
// with every rule that each of its services must keep.
//
// What is checked with one (make e2e-compose): the very file, run by a Docker engine of the test's own,
// while events flow: more and fewer instances, a killed container, a stack that is taken down and comes
// again, and the rows that are in the table afterwards. The images that a registry would give are stand-ins
// under the tags of the file (internal/standin): the real programs, put together from what this machine
// has. So what is not tested is what those images hold besides; variables, paths and users were taken
// from their own sources.
package compose
