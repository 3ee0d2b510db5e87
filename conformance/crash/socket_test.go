package crash_test

import (
	"context"
	"fmt"

	proto "github.com/dapr/dapr/pkg/proto/components/v1"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/dapr-bolt/dapr-bolt/conformance/harness"
)

// socket is the store behind the component's socket. A call that is made while nobody listens waits; one that was under way
// when the process died fails.
type socket struct {
	*harness.Client
	round int
}

// name is that of a key in the store. What was cut off in a round may take place in a later one, which has keys of its own.
func name(round, group, key int) string {
	return fmt.Sprintf("round-%d-group-%d-key-%d", round, group, key)
}

// do implements store.
func (s *socket) do(ctx context.Context, c call) (a answer, err error) {
	switch {
	case len(c.reads) == 1:
		var got *proto.GetResponse
		if got, err = s.State.Get(ctx, &proto.GetRequest{Key: name(s.round, c.group, c.reads[0])}); err == nil {
			a.values, a.etags = []string{string(got.GetData())}, []string{got.GetEtag().GetValue()}
		}
	case c.reads != nil:
		request := &proto.BulkGetRequest{}
		for _, key := range c.reads {
			request.Items = append(request.Items, &proto.GetRequest{Key: name(s.round, c.group, key)})
		}
		var got *proto.BulkGetResponse
		if got, err = s.State.BulkGet(ctx, request); err == nil {
			for i, item := range got.GetItems() {
				if item.GetKey() != name(s.round, c.group, c.reads[i]) || item.GetError() != "" {
					return a, fmt.Errorf("%w: %v", errBroken, item)
				}
				a.values, a.etags = append(a.values, string(item.GetData())), append(a.etags, item.GetEtag().GetValue())
			}
		}
	case len(c.changes) > 1:
		request := &proto.TransactionalStateRequest{}
		for _, change := range c.changes {
			operation := &proto.TransactionalStateOperation{}
			if change.delete {
				operation.Request = &proto.TransactionalStateOperation_Delete{Delete: s.remove(c.group, change)}
			} else {
				operation.Request = &proto.TransactionalStateOperation_Set{Set: s.set(c.group, change)}
			}
			request.Operations = append(request.Operations, operation)
		}
		_, err = s.Transaction.Transact(ctx, request)
	case c.changes[0].delete:
		_, err = s.State.Delete(ctx, s.remove(c.group, c.changes[0]))
	default:
		_, err = s.State.Set(ctx, s.set(c.group, c.changes[0]))
	}
	switch status.Code(err) {
	case codes.OK, codes.Unavailable:
		return a, err
	case codes.FailedPrecondition: // an ETag, or a first-write
		return answer{refused: true}, nil
	default:
		return a, fmt.Errorf("%w: %w", errBroken, err)
	}
}

func (s *socket) set(group int, c change) *proto.SetRequest {
	r := &proto.SetRequest{Key: name(s.round, group, c.key), Value: []byte(c.value)}
	switch c.when {
	case ifMatch:
		r.Etag = &proto.Etag{Value: c.etag}
	case ifAbsent:
		r.Options = &proto.StateOptions{Concurrency: proto.StateOptions_CONCURRENCY_FIRST_WRITE}
	}
	return r
}

func (s *socket) remove(group int, c change) *proto.DeleteRequest {
	r := &proto.DeleteRequest{Key: name(s.round, group, c.key)}
	if c.when == ifMatch {
		r.Etag = &proto.Etag{Value: c.etag}
	}
	return r
}
