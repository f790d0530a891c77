package control

import (
	"fmt"
	"testing"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/codes"

	controlv1 "sluice/gen/sluice/control/v1"
)

// A server that has promised all its storage to others is full, and says so with what to do.
func TestNoStorageLeft(t *testing.T) {
	r := newRetiring(t)
	for size := int64(1 << 50); size >= smallLogBytes/2; {
		name := fmt.Sprintf("filler%d", size)
		_, err := r.js.CreateStream(t.Context(), jetstream.StreamConfig{Name: name, Subjects: []string{name}, MaxBytes: size})
		var api *jetstream.APIError
		if err != nil {
			require.ErrorAs(t, err, &api)
			require.Equal(t, storageExceeded, api.ErrorCode)
		}
		size /= 2
	}
	err := r.service(r.js, r.reg).ensure(t.Context(), &controlv1.Pipeline{Id: "late"})
	var code interface{ Code() codes.Code }
	require.ErrorAs(t, err, &code)
	require.Equal(t, codes.ResourceExhausted, code.Code())
	require.ErrorContains(t, err, "give JetStream more")
	require.ErrorContains(t, err, "or delete a pipeline")
}
