package clickhouse

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"
)

// exception is an error of the engine, or one of this server that a ClickHouse server would report the same way.
type exception struct {
	code    int32
	message string
}

func (e *exception) Error() string { return fmt.Sprintf("code: %d. %s", e.code, e.message) }

// Codes of ClickHouse (src/Common/ErrorCodes.cpp) that this server gives on its own account.
const (
	codeSyntaxError       = 62
	codeNotImplemented    = 48
	codeUnexpectedPacket  = 101
	codeIncorrectData     = 117
	codeCannotReadAllData = 33
	codeQueryCancelled    = 394
	codeDuplicateQueryID  = 216
	codeUnknownException  = 1002
)

var (
	exceptionCode = regexp.MustCompile(`Code: (\d+)\. (?:DB::)?(?:Exception|NetException|ErrnoException)?:? ?`)
	exceptionName = regexp.MustCompile(`(?s)^(.*?) \(([A-Z][A-Z0-9_]+)\)( \(version [^)]*\))?\s*$`)
)

// parseException reads "Code: 60. DB::Exception: Unknown table … (UNKNOWN_TABLE)". The name at the end goes: clients add
// it from the code, as they do with a server's exception.
func parseException(text string) *exception {
	at := exceptionCode.FindStringSubmatchIndex(text)
	if at == nil {
		return &exception{codeUnknownException, strings.TrimSpace(text)}
	}
	code, err := strconv.ParseInt(text[at[2]:at[3]], 10, 32)
	if err != nil {
		return &exception{codeUnknownException, strings.TrimSpace(text)}
	}
	message := strings.TrimSpace(text[at[1]:])
	if m := exceptionName.FindStringSubmatch(message); m != nil {
		message = m[1]
	}
	return &exception{int32(code), message}
}
