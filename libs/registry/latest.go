package registry

import (
	"cmp"
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"strings"

	"github.com/nats-io/nats.go"
	"google.golang.org/protobuf/proto"

	controlv1 "sluice/gen/sluice/control/v1"
)

// noMessage is the server's error code for a subject without a message.
const noMessage = 10037

// Latest returns a record as it is now, also when the bucket has replicas: it asks the leader, where Get may be answered by a replica that lags
// behind. For decisions that must not be made by a record that has been replaced.
func (r *Registry) Latest(ctx context.Context, id string) (*controlv1.PipelineRecord, error) {
	ctx, cancel := context.WithTimeout(ctx, attempt)
	defer cancel()
	request, err := json.Marshal(map[string]string{"last_by_subj": "$KV." + PipelinesBucket + "." + id})
	if err != nil {
		return nil, fmt.Errorf("read pipeline %q: %w", id, err)
	}
	prefix := cmp.Or(strings.TrimSuffix(r.js.Options().APIPrefix, "."), "$JS.API")
	msg, err := r.js.Conn().RequestWithContext(ctx, prefix+".STREAM.MSG.GET.KV_"+PipelinesBucket, request)
	if err != nil {
		return nil, fmt.Errorf("read pipeline %q: %w", id, err)
	}
	var answer struct {
		Error *struct {
			Code        uint16 `json:"err_code"`
			Description string `json:"description"`
		} `json:"error"`
		Message struct {
			Headers string `json:"hdrs"`
			Data    string `json:"data"`
		} `json:"message"`
	}
	if err := json.Unmarshal(msg.Data, &answer); err != nil {
		return nil, fmt.Errorf("read pipeline %q: %w", id, err)
	}
	if e := answer.Error; e != nil {
		if e.Code == noMessage {
			return nil, fmt.Errorf("%q: %w", id, ErrNotFound)
		}
		return nil, fmt.Errorf("read pipeline %q: %s", id, e.Description)
	}
	headers, err := base64.StdEncoding.DecodeString(answer.Message.Headers)
	if err != nil {
		return nil, fmt.Errorf("read pipeline %q: %w", id, err)
	}
	if len(headers) > 0 {
		parsed, err := nats.DecodeHeadersMsg(headers)
		if err != nil {
			return nil, fmt.Errorf("read pipeline %q: %w", id, err)
		}
		if parsed.Get("KV-Operation") != "" { // it was deleted
			return nil, fmt.Errorf("%q: %w", id, ErrNotFound)
		}
	}
	data, err := base64.StdEncoding.DecodeString(answer.Message.Data)
	if err != nil {
		return nil, fmt.Errorf("read pipeline %q: %w", id, err)
	}
	rec := &controlv1.PipelineRecord{}
	if err := proto.Unmarshal(data, rec); err != nil {
		return nil, fmt.Errorf("record of pipeline %q: %w", id, err)
	}
	return rec, nil
}
