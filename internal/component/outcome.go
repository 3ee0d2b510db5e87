package component

import (
	"context"
	"fmt"
	"log/slog"
	"runtime/debug"
	"time"

	proto "github.com/dapr/dapr/pkg/proto/components/v1"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/dapr-bolt/dapr-bolt/internal/metrics"
)

// classify returns what the metrics call an outcome, and how much the log makes of it: what failed through our fault is an
// error, what failed through the caller's is information, all else is for debugging.
func classify(code codes.Code) (metrics.Outcome, slog.Level) {
	switch code {
	case codes.OK:
		return metrics.OK, slog.LevelDebug
	case codes.Canceled:
		return metrics.Canceled, slog.LevelDebug
	case codes.DeadlineExceeded:
		return metrics.Canceled, slog.LevelInfo
	case codes.InvalidArgument:
		return metrics.Invalid, slog.LevelInfo
	case codes.FailedPrecondition:
		return metrics.Conflict, slog.LevelInfo
	case codes.NotFound, codes.Unimplemented:
		return metrics.Failed, slog.LevelInfo
	case codes.ResourceExhausted:
		return metrics.NoRoom, slog.LevelError
	}
	return metrics.Failed, slog.LevelError
}

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
	outcome, _ := classify(status.Code(err))
	switch {
	case c.store != nil:
		c.store.metrics.Called(operations[c.method], outcome, time.Since(start))
	case c.pubsub != nil && (c.method == proto.PubSub_Publish_FullMethodName || c.method == proto.PubSub_BulkPublish_FullMethodName):
		c.pubsub.metrics.Called(outcome, time.Since(start))
	}
}

// logCall logs a call once, when it has ended. Values and events are never logged.
//
// A call that is not to be logged costs no more than the look at its outcome: the middleware that does this for anyone
// makes its fields first, which was a third of what a small call took.
func logCall(ctx context.Context, log *slog.Logger, c *call, start time.Time, err error) {
	code := status.Code(err)
	_, level := classify(code)
	if !log.Enabled(ctx, level) {
		return
	}
	attributes := []slog.Attr{
		slog.String("method", c.method),
		slog.String("component", c.component),
		slog.String("grpc.code", code.String()),
		slog.Float64("grpc.time_ms", float64(time.Since(start).Microseconds())/1000),
	}
	if err != nil {
		attributes = append(attributes, slog.String("grpc.error", err.Error()))
	}
	log.LogAttrs(ctx, level, "finished call", attributes...)
}

// answerPanic is deferred by what answers a call. It logs the stack; the caller gets to know no more than that it was our
// fault.
func answerPanic(ctx context.Context, log *slog.Logger, c *call, err *error) {
	if p := recover(); p != nil {
		log.ErrorContext(ctx, "panic in a call", "component", c.component, "panic", fmt.Sprint(p), "stack", string(debug.Stack()))
		*err = status.Error(codes.Internal, "internal error: the call panicked; see the log of dapr-bolt")
	}
}
