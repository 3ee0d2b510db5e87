package component

import (
	"context"
	"testing"

	proto "github.com/dapr/dapr/pkg/proto/components/v1"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

func TestLargeRequestsAreBounded(t *testing.T) {
	const limit = 1 << 20
	r := &requests{limit: limit}
	call := func(size int, handler func() error) error {
		_, err := r.unary(context.Background(), &proto.SetRequest{Value: make([]byte, size)}, nil, func(context.Context, any) (any, error) { return nil, handler() })
		return err
	}
	nothing := func() error { return nil }
	require.NoError(t, call(limit/2, func() error {
		require.NoError(t, call(smallRequest-100, nothing), "there is more room for small ones")
		err := call(limit/2, nothing)
		require.ErrorIs(t, err, ErrTooManyRequests)
		require.Equal(t, codes.ResourceExhausted, status.Code(toStatus(err)))
		require.EqualError(t, err, "too many requests at once: large ones of 524292 bytes are being worked on, this one has 524292; --max-request-bytes allows no more than 1048576")
		return call(limit/3, nothing)
	}))
	require.NoError(t, call(2*limit, func() error {
		require.ErrorIs(t, call(smallRequest, nothing), ErrTooManyRequests)
		return nil
	}), "one alone always fits")
	var fill func(left int)
	fill = func(left int) {
		if left == 0 {
			require.EqualError(t, call(smallRequest-100, nothing),
				"too many requests at once: 2094080 bytes are being worked on, this one has 65440; --max-request-bytes allows no more than twice 1048576")
			return
		}
		require.NoError(t, call(smallRequest-100, func() error { fill(left - 1); return nil }))
	}
	fill(2 * limit / smallRequest)
	require.Zero(t, r.all.Load())
	require.Zero(t, r.large.Load())
}
