package component

import (
	"context"
	"fmt"
	"log/slog"
	"runtime/debug"
	"time"

	"github.com/grpc-ecosystem/go-grpc-middleware/v2/interceptors/recovery"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// callLogger logs each call once, when it has ended: what failed through our fault as an error, what failed through the
// caller's as information, all else for debugging. Values and events are never logged.
//
// A call that is not to be logged costs no more than the look at its outcome: the middleware that does this for anyone
// makes its fields first, which was a third of what a small call took.
func callLogger(log *slog.Logger) (grpc.UnaryServerInterceptor, grpc.StreamServerInterceptor) {
	ended := func(ctx context.Context, method string, start time.Time, err error) {
		code := status.Code(err)
		level := callLevel(code)
		if !log.Enabled(ctx, level) {
			return
		}
		attributes := []slog.Attr{
			slog.String("method", method),
			slog.String("component", callOf(ctx).component),
			slog.String("grpc.code", code.String()),
			slog.Float64("grpc.time_ms", float64(time.Since(start).Microseconds())/1000),
		}
		if err != nil {
			attributes = append(attributes, slog.String("grpc.error", err.Error()))
		}
		log.LogAttrs(ctx, level, "finished call", attributes...)
	}
	unary := func(ctx context.Context, req any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
		start := time.Now()
		answer, err := handler(ctx, req)
		ended(ctx, info.FullMethod, start, err)
		return answer, err
	}
	stream := func(srv any, stream grpc.ServerStream, info *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
		start := time.Now()
		err := handler(srv, stream)
		ended(stream.Context(), info.FullMethod, start, err)
		return err
	}
	return unary, stream
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

// panicAnswer logs the stack; the caller gets to know no more than that it was our fault.
func panicAnswer(log *slog.Logger) recovery.Option {
	return recovery.WithRecoveryHandlerContext(func(ctx context.Context, p any) error {
		log.ErrorContext(ctx, "panic in a call", "component", callOf(ctx).component, "panic", fmt.Sprint(p), "stack", string(debug.Stack()))
		return status.Error(codes.Internal, "internal error: the call panicked; see the log of dapr-bolt")
	})
}
