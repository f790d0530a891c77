package clickhouse

import (
	"errors"
	"fmt"
	"strings"

	driver "github.com/ClickHouse/clickhouse-go/v2"
)

// Class says what an error means for the block that was sent.
type Class uint8

const (
	// Ambiguous: the block may be in or not. Send the same block under the same token again, for as long
	// as it takes. Everything that is not a server's own answer is ambiguous.
	Ambiguous Class = iota
	// Retry: the server refused for a reason that can pass (load, a lost keeper, a missing table, a
	// wrong password). Send the same block under the same token again, and say so.
	Retry
	// RejectData: the server says that the data itself is bad; it would say so again.
	RejectData
	// Split: the block as a whole is too much for the server, but parts of it may not be.
	Split
	// Schema: the table is not what it was. Wait, visibly, until the table or the pipeline is mended.
	Schema
)

func (c Class) String() string {
	return [...]string{"ambiguous", "retry", "rejected data", "split", "schema"}[c]
}

// ServerError is a server's own, definite answer.
type ServerError struct {
	Code    int
	Name    string
	Message string
	Addr    string
}

func (e *ServerError) Error() string {
	return fmt.Sprintf("clickhouse %s: code %d: %s", e.Addr, e.Code, strings.TrimSpace(e.Message))
}

// ChangedError wraps a server's answer to a block whose columns are no longer the table's.
type ChangedError struct {
	Columns []string // "name: was T, is U"
	Err     error
}

func (e *ChangedError) Error() string {
	return fmt.Sprintf("the table has changed (%s): %v", strings.Join(e.Columns, "; "), e.Err)
}
func (e *ChangedError) Unwrap() error { return e.Err }

// Classify decides what an error of an insert means. It is the only place that decides.
func Classify(err error) Class { return verdictOf(err).class }

// Explain says in a sentence why Classify decided as it did.
func Explain(err error) string { return verdictOf(err).reason }

type verdict struct {
	class  Class
	reason string
}

// serverCode is the code and text of a server's answer, from whichever client brought it.
func serverCode(err error) (code int, message string, ok bool) {
	var s *ServerError
	if errors.As(err, &s) {
		return s.Code, s.Message, true
	}
	var d *driver.Exception
	if errors.As(err, &d) {
		return int(d.Code), d.Message, true
	}
	return 0, "", false
}

func verdictOf(err error) verdict {
	var config *ConfigError
	if errors.As(err, &config) {
		return verdict{Retry, "the configuration is at fault; nothing was sent"}
	}
	if errors.Is(err, ErrNotSent) {
		return verdict{Retry, "the writer could not make sure that the lane is still its own; nothing was sent"}
	}
	code, message, ok := serverCode(err)
	if !ok {
		return verdict{Ambiguous, "no answer of the server: the block may be in or not"}
	}
	v, known := verdicts[code]
	if !known {
		// A code that nobody has thought of is never a reason to give data up.
		return verdict{Retry, "not a known reason to refuse data"}
	}
	var changed *ChangedError
	if v.class == RejectData && errors.As(err, &changed) {
		return verdict{Schema, "the table's columns have changed: the data may be fine"}
	}
	if v.class == RejectData || v.class == Split {
		// The source table may hold the block already while a view downstream fails on it: taking the
		// block apart under new tokens would insert its rows again.
		if strings.Contains(message, "pushing to view") {
			return verdict{Schema, "a materialized view behind the table fails: mend the view"}
		}
	}
	if code == codeTooManyParts && strings.Contains(message, "Too many partitions") {
		return verdict{Split, "the block touches more partitions than max_partitions_per_insert_block"}
	}
	return v
}

// Answered tells that a server has spoken: the error, or one of those joined in it, is a server's own answer.
func Answered(err error) bool {
	_, _, ok := serverCode(err)
	return ok
}

// StillRunning tells that an earlier query of the same id has not ended yet.
func StillRunning(err error) bool {
	code, _, ok := serverCode(err)
	return ok && code == 216
}
