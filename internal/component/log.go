package component

import (
	"context"
	"fmt"
	"log/slog"
	"runtime/debug"

	"github.com/grpc-ecosystem/go-grpc-middleware/v2/interceptors"
	"github.com/grpc-ecosystem/go-grpc-middleware/v2/interceptors/logging"
	"github.com/grpc-ecosystem/go-grpc-middleware/v2/interceptors/recovery"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// callLogger logs each call once, when it has ended: what failed through our fault as an error, what failed through the
// caller's as information, all else for debugging. Values and events are never logged.
func callLogger(log *slog.Logger) (grpc.UnaryServerInterceptor, grpc.StreamServerInterceptor) {
	logger := logging.LoggerFunc(func(ctx context.Context, level logging.Level, text string, fields ...any) {
		log.Log(ctx, slog.Level(level), text, fields...)
	})
	opts := []logging.Option{
		logging.WithLogOnEvents(logging.FinishCall),
		logging.WithLevels(callLevel),
		logging.WithDisableLoggingFields(logging.ComponentFieldKey, logging.MethodFieldKey, logging.MethodTypeFieldKey,
			logging.ServiceFieldKey, logging.SystemTag[0], "peer.address", "grpc.start_time", "grpc.request.deadline"),
		logging.WithFieldsFromContextAndCallMeta(func(ctx context.Context, call interceptors.CallMeta) logging.Fields {
			return logging.Fields{"method", call.FullMethod(), "component", componentName(ctx)}
		}),
	}
	return logging.UnaryServerInterceptor(logger, opts...), logging.StreamServerInterceptor(logger, opts...)
}

func callLevel(code codes.Code) logging.Level {
	switch code {
	case codes.OK, codes.Canceled:
		return logging.LevelDebug
	case codes.InvalidArgument, codes.FailedPrecondition, codes.NotFound, codes.Unimplemented, codes.DeadlineExceeded:
		return logging.LevelInfo
	default:
		return logging.LevelError
	}
}

// panicAnswer logs the stack; the caller gets to know no more than that it was our fault.
func panicAnswer(log *slog.Logger) recovery.Option {
	return recovery.WithRecoveryHandlerContext(func(ctx context.Context, p any) error {
		log.ErrorContext(ctx, "panic in a call", "component", componentName(ctx), "panic", fmt.Sprint(p), "stack", string(debug.Stack()))
		return status.Error(codes.Internal, "internal error: the call panicked; see the log of dapr-bolt")
	})
}
