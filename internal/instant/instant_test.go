package instant_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/dapr-bolt/dapr-bolt/internal/instant"
)

func TestReached(t *testing.T) {
	at := time.Unix(1, 0)
	require.False(t, instant.Reached(at, at.Add(-1)))
	require.True(t, instant.Reached(at, at), "the instant itself counts")
	require.True(t, instant.Reached(at, at.Add(1)))
	require.False(t, instant.Reached(time.Time{}, at), "zero is never")
}
