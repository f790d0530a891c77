package service

import (
	"testing"

	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

func TestCodesAreNamedAsGRPCDoes(t *testing.T) {
	require.Equal(t, "OK", statusName(nil))
	for code, want := range map[codes.Code]string{
		codes.NotFound: "NOT_FOUND", codes.Internal: "INTERNAL", codes.DeadlineExceeded: "DEADLINE_EXCEEDED", codes.InvalidArgument: "INVALID_ARGUMENT",
	} {
		require.Equal(t, want, statusName(status.Error(code, "x")))
	}
}
