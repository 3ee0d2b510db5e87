package component

import (
	"time"

	proto "github.com/dapr/dapr/pkg/proto/components/v1"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/dapr-bolt/dapr-bolt/internal/metrics"
)

// operations are the methods of a state store that are counted.
var operations = map[string]metrics.Operation{
	proto.StateStore_Get_FullMethodName:                   metrics.Get,
	proto.StateStore_Set_FullMethodName:                   metrics.Set,
	proto.StateStore_Delete_FullMethodName:                metrics.Delete,
	proto.StateStore_BulkGet_FullMethodName:               metrics.BulkGet,
	proto.StateStore_BulkSet_FullMethodName:               metrics.BulkSet,
	proto.StateStore_BulkDelete_FullMethodName:            metrics.BulkDelete,
	proto.TransactionalStateStore_Transact_FullMethodName: metrics.Transact,
	proto.QueriableStateStore_Query_FullMethodName:        metrics.Query,
}

// measureCall counts a call that has ended. One that came to no initialized component is not counted.
func measureCall(c *call, start time.Time, err error) {
	switch {
	case c.store != nil:
		c.store.metrics.Called(operations[c.method], outcomeOf(err), time.Since(start))
	case c.pubsub != nil && (c.method == proto.PubSub_Publish_FullMethodName || c.method == proto.PubSub_BulkPublish_FullMethodName):
		c.pubsub.metrics.Called(outcomeOf(err), time.Since(start))
	}
}

func outcomeOf(err error) metrics.Outcome {
	switch status.Code(err) {
	case codes.OK:
		return metrics.OK
	case codes.FailedPrecondition:
		return metrics.Conflict
	case codes.InvalidArgument:
		return metrics.Invalid
	case codes.ResourceExhausted:
		return metrics.NoRoom
	case codes.Canceled, codes.DeadlineExceeded:
		return metrics.Canceled
	}
	return metrics.Failed
}
