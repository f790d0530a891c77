package fencedlog

import (
	"context"
	"errors"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// retry calls attempt until it succeeds, is fenced, or ctx ends.
func (w *Writer) retry(ctx context.Context, attempt func(context.Context) error) error {
	waited := false
	for backoff := firstBackoff; ; backoff = min(2*backoff, lastBackoff) {
		attemptCtx, cancel := context.WithTimeout(ctx, attemptTimeout)
		err := attempt(attemptCtx)
		cancel()
		switch {
		case err == nil:
			if waited {
				w.wait(nil)
			}
			return nil
		case errors.Is(err, ErrFenced):
			return err
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case permanent(err):
			return err
		}
		waited = true
		w.wait(err)
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(backoff):
		}
	}
}

// Codes of the JetStream API that the client has no names for.
const (
	codeInsufficientResources  jetstream.ErrorCode = 10023
	codeStorageExceeded        jetstream.ErrorCode = 10047
	codeStreamStoreFailed      jetstream.ErrorCode = 10077 // carries "maximum bytes exceeded" and the like
	codeMemoryExceeded         jetstream.ErrorCode = 10028
	codeTooManyRequests        jetstream.ErrorCode = 10167
	codeStoreCreateFailed      jetstream.ErrorCode = 10049
	codeStreamMessageTooLarge                      = jetstream.JSErrCodeStreamMessageExceedsMaximum
	codeAccountResourcesExceed jetstream.ErrorCode = 10002
)

// refusedForNow tells that the server has definitely not stored the message, for a reason that
// passes: the log or the disk is full, or it is busy.
func refusedForNow(err error) bool {
	var api *jetstream.APIError
	if !errors.As(err, &api) {
		return false
	}
	switch api.ErrorCode {
	case codeInsufficientResources, codeStorageExceeded, codeMemoryExceeded, codeTooManyRequests,
		codeAccountResourcesExceed:
		return true
	case codeStreamStoreFailed:
		// A limit refuses before anything is written; of other failures to store we know nothing.
		return strings.Contains(api.Description, "maximum")
	}
	return false
}

// permanent tells of an error that no repetition mends: the message itself is too large, or there is
// nobody to send it.
func permanent(err error) bool {
	var api *jetstream.APIError
	if errors.As(err, &api) && api.ErrorCode == codeStreamMessageTooLarge {
		return true
	}
	// A connection that was closed (not: lost) does not come back.
	return errors.Is(err, nats.ErrMaxPayload) || errors.Is(err, nats.ErrConnectionClosed)
}
