package component

import (
	"context"
	"fmt"
	"log/slog"
	"runtime/debug"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// logCall logs a call once, when it has ended: what failed through our fault as an error, what failed through the
// caller's as information, all else for debugging. Values and events are never logged.
//
// A call that is not to be logged costs no more than the look at its outcome: the middleware that does this for anyone
// makes its fields first, which was a third of what a small call took.
func logCall(ctx context.Context, log *slog.Logger, c *call, start time.Time, err error) {
	code := status.Code(err)
	level := callLevel(code)
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

func callLevel(code codes.Code) slog.Level {
	switch code {
	case codes.OK, codes.Canceled:
		return slog.LevelDebug
	case codes.InvalidArgument, codes.FailedPrecondition, codes.NotFound, codes.Unimplemented, codes.DeadlineExceeded:
		return slog.LevelInfo
	default:
		return slog.LevelError
	}
}

// answerPanic is deferred by what answers a call. It logs the stack; the caller gets to know no more than that it was our
// fault.
func answerPanic(ctx context.Context, log *slog.Logger, c *call, err *error) {
	if p := recover(); p != nil {
		log.ErrorContext(ctx, "panic in a call", "component", c.component, "panic", fmt.Sprint(p), "stack", string(debug.Stack()))
		*err = status.Error(codes.Internal, "internal error: the call panicked; see the log of dapr-bolt")
	}
}
