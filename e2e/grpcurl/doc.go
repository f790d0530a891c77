// Package grpcurl tests docs/grpcurl.md: every command of the page is run with the real grpcurl against
// the services as processes, and every answer must have the form that the page shows.
package grpcurl
