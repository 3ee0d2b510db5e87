package component

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/dapr-bolt/dapr-bolt/internal/invalid"
	"github.com/dapr-bolt/dapr-bolt/pubsub"
	"github.com/dapr-bolt/dapr-bolt/statestore"
)

func kitHTTPCode(t *testing.T, err error) int {
	t.Helper()
	details := status.Convert(err).Details()
	require.Len(t, details, 1)
	info, ok := details[0].(*errdetails.ErrorInfo)
	require.True(t, ok, "%T", details[0])
	require.Equal(t, "true", info.GetMetadata()["kit_error"])
	require.NotEmpty(t, info.GetMetadata()["tag"])
	code, err := strconv.Atoi(info.GetMetadata()["http_code"])
	require.NoError(t, err)
	return code
}

func TestToStatus(t *testing.T) {
	require.NoError(t, toStatus(nil))
	plain := errors.New("boom")
	for _, test := range []struct {
		err  error
		code codes.Code
		http int // of a kit error
	}{
		{status.Error(codes.Aborted, "as it is"), codes.Aborted, 0},
		{invalid.New("f", "", ""), codes.InvalidArgument, http.StatusBadRequest},
		{invalid.New("f", "", ""), codes.InvalidArgument, http.StatusBadRequest},
		{&invalid.Error{Field: "f"}, codes.InvalidArgument, http.StatusBadRequest},
		{&statestore.TooLargeError{}, codes.InvalidArgument, http.StatusRequestEntityTooLarge},
		{pubsub.ErrTooLarge, codes.InvalidArgument, http.StatusRequestEntityTooLarge},
		{ErrNotInitialized, codes.FailedPrecondition, 0},
		{pubsub.ErrTopicFull, codes.ResourceExhausted, 0},
		{syscall.ENOSPC, codes.ResourceExhausted, 0},
		{ErrStopping, codes.Unavailable, 0},
		{pubsub.ErrClosed, codes.Unavailable, 0},
		{fs.ErrClosed, codes.Unavailable, 0},
		{&statestore.DamagedError{Err: plain}, codes.DataLoss, 0},
		{context.Canceled, codes.Canceled, 0},
		{context.DeadlineExceeded, codes.DeadlineExceeded, 0},
		{plain, codes.Internal, 0},
	} {
		t.Run(test.err.Error(), func(t *testing.T) {
			for _, err := range []error{test.err, fmt.Errorf("while trying: %w", test.err)} {
				got := toStatus(err)
				require.Equal(t, test.code, status.Code(got))
				require.Contains(t, got.Error(), test.err.Error())
				if test.http != 0 {
					require.Equal(t, test.http, kitHTTPCode(t, got))
				} else {
					require.Empty(t, status.Convert(got).Details())
				}
			}
		})
	}
}

// The runtime wants exactly one detail with one violation of the field etag.
func TestETagErrorsToStatus(t *testing.T) {
	mismatch := &statestore.ETagMismatchError{Key: "k", ETag: "e"}
	other := errors.New("disk")
	for name, test := range map[string]struct {
		err  error
		code codes.Code
		etag bool
	}{
		"mismatch":    {mismatch, codes.FailedPrecondition, true},
		"wrapped":     {fmt.Errorf("so: %w", mismatch), codes.FailedPrecondition, true},
		"bulk":        {errors.Join(mismatch, mismatch), codes.FailedPrecondition, true},
		"bulk, mixed": {errors.Join(mismatch, other), codes.Internal, false},
	} {
		t.Run(name, func(t *testing.T) {
			s := status.Convert(toStatus(test.err))
			require.Equal(t, test.code, s.Code())
			if !test.etag {
				require.Empty(t, s.Details())
				return
			}
			require.Len(t, s.Details(), 1)
			violations := s.Details()[0].(*errdetails.BadRequest).GetFieldViolations()
			require.Len(t, violations, 1)
			require.Equal(t, "etag", violations[0].GetField())
			require.Equal(t, mismatch.Error(), violations[0].GetDescription())
		})
	}
}

func TestErrorTextIsBoundedAndUTF8(t *testing.T) {
	s := status.Convert(toStatus(errors.New(strings.Repeat("x", maxErrorText) + "tail\xff")))
	require.Less(t, len(s.Message()), maxErrorText+10)
	require.Equal(t, "a\uFFFDb", status.Convert(toStatus(errors.New("a\xffb"))).Message())
	require.Less(t, len((invalid.New("", strings.Repeat("x", 1<<20), "")).Error()), 200)
}
