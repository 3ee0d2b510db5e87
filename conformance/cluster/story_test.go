package cluster_test

import (
	"os"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/dapr-bolt/dapr-bolt/conformance/cluster"
	"github.com/dapr-bolt/dapr-bolt/conformance/e2e"
	"github.com/dapr-bolt/dapr-bolt/conformance/harness"
)

// The story of the todo app with each service in a "Pod" of its own, with a dapr-bolt of its own, over three servers of each
// kind; then a leader of each is killed while it works.
func TestStoryInTwoPods(t *testing.T) {
	checkout, err := harness.FindCheckout()
	require.NoError(t, err)
	h := harness.ForTest(t)
	servers, err := h.StartServers(t.Context(), checkout, os.Stderr)
	require.NoError(t, err)
	s, err := e2e.StartOn(t.Context(), h, checkout, servers, os.Stderr)
	require.NoError(t, err)
	require.NoError(t, s.Play(t.Context(), t.Output()))
	drill := cluster.Drill{Todo: s.Todo, Servers: servers, Out: t.Output()}
	require.NoError(t, drill.Run(t.Context()))
}
