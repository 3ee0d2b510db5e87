package component

import (
	"cmp"
	"context"
	"errors"
	"io/fs"
	"net/http"
	"strconv"
	"strings"
	"syscall"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/protoadapt"

	"github.com/dapr-bolt/dapr-bolt/internal/invalid"
	"github.com/dapr-bolt/dapr-bolt/pubsub"
	"github.com/dapr-bolt/dapr-bolt/statestore"
)

// ErrNotInitialized answers a call to a component that has not had its Init.
var ErrNotInitialized = errors.New("the component is not initialized")

// ErrStopping answers calls that come, and streams that are open, while the server stops.
var ErrStopping = errors.New("the component is stopping")

// ErrTooManyStreams refuses a subscription beyond Options.MaxStreams.
var ErrTooManyStreams = errors.New("too many subscriptions")

// Tags and reasons of the errors that reach apps through the sidecar.
const (
	errorDomain = "dapr-bolt"

	tagInvalid  = "DAPR_BOLT_INVALID_ARGUMENT"
	tagTooLarge = "DAPR_BOLT_TOO_LARGE"
)

// etagField is the one that the runtime looks for (pkg/components/state/pluggable.go, etagErrFromStatus).
const etagField = "etag"

// maxErrorText bounds what an error puts into a call's trailers.
const maxErrorText = 4 << 10

// toStatus is how errors go over the wire. Every failed call passes through here, and only here.
func toStatus(err error) error {
	if err == nil {
		return nil
	}
	if _, ok := status.FromError(err); ok {
		return err
	}
	text := errorText(err)

	if mismatch := etagMismatch(err); mismatch != nil {
		return withDetail(status.New(codes.FailedPrecondition, text), &errdetails.BadRequest{
			FieldViolations: []*errdetails.BadRequest_FieldViolation{{Field: etagField, Description: errorText(mismatch)}},
		})
	}

	switch {
	case errors.Is(err, statestore.ErrTooLarge), errors.Is(err, pubsub.ErrTooLarge):
		return kitError(codes.InvalidArgument, http.StatusRequestEntityTooLarge, text, tagTooLarge)
	case errors.Is(err, invalid.Err):
		return kitError(codes.InvalidArgument, http.StatusBadRequest, text, tagInvalid)
	case errors.Is(err, ErrNotInitialized):
		return status.Error(codes.FailedPrecondition, text)
	case errors.Is(err, pubsub.ErrTopicFull), errors.Is(err, ErrTooManyStreams), errors.Is(err, ErrTooManyRequests),
		errors.Is(err, ErrTooManyCalls), errors.Is(err, ErrTooManyAnswers),
		errors.Is(err, statestore.ErrFull), errors.Is(err, pubsub.ErrTooManyTopics), errors.Is(err, pubsub.ErrTooManyGroups),
		errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT), errors.Is(err, syscall.EFBIG):
		return status.Error(codes.ResourceExhausted, text)
	case errors.Is(err, ErrStopping), errors.Is(err, pubsub.ErrClosed), errors.Is(err, fs.ErrClosed),
		errors.Is(err, statestore.ErrUnavailable):
		return status.Error(codes.Unavailable, text)
	case errors.Is(err, statestore.ErrDamaged):
		return status.Error(codes.DataLoss, text)
	case errors.Is(err, context.Canceled):
		return status.Error(codes.Canceled, text)
	case errors.Is(err, context.DeadlineExceeded):
		return status.Error(codes.DeadlineExceeded, text)
	default:
		return status.Error(codes.Internal, text)
	}
}

// etagMismatch returns the ETag error that err consists of. A bulk call's error does if every failed item's is one;
// otherwise what else went wrong must not hide behind the ETag.
func etagMismatch(err error) error {
	if joined, ok := err.(interface{ Unwrap() []error }); ok {
		var first error
		for _, each := range joined.Unwrap() {
			mismatch := etagMismatch(each)
			if mismatch == nil {
				return nil
			}
			first = cmp.Or(first, mismatch)
		}
		return first
	}
	if mismatch := (*statestore.ETagMismatchError)(nil); errors.As(err, &mismatch) {
		return mismatch
	}
	return nil
}

// kitError makes an error for which the runtime answers its app with the HTTP code (pkg/components/pluggable/errors.go,
// KitErrorFromStatus).
func kitError(code codes.Code, httpCode int, text, tag string) error {
	return withDetail(status.New(code, text), &errdetails.ErrorInfo{
		Domain: errorDomain, Reason: tag,
		Metadata: map[string]string{"kit_error": "true", "http_code": strconv.Itoa(httpCode), "tag": tag},
	})
}

// withDetail drops the detail if it cannot be attached: the code and the text are what matters.
func withDetail(s *status.Status, detail protoadapt.MessageV1) error {
	detailed, err := s.WithDetails(detail)
	if err != nil {
		return s.Err()
	}
	return detailed.Err()
}

func errorText(err error) string {
	text := err.Error()
	if len(text) > maxErrorText {
		text = text[:maxErrorText] + "…"
	}
	return strings.ToValidUTF8(text, "\uFFFD")
}
