package e2e_test

import (
	"os"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/dapr-bolt/dapr-bolt/conformance/e2e"
	"github.com/dapr-bolt/dapr-bolt/conformance/harness"
)

func TestStory(t *testing.T) {
	t.Parallel()
	checkout, err := harness.FindCheckout()
	require.NoError(t, err)
	s, err := e2e.Start(t.Context(), harness.ForTest(t), checkout, os.Stderr)
	require.NoError(t, err)
	for _, step := range s.Steps() {
		passed := t.Run(step.Title, func(t *testing.T) {
			saw, err := step.Play(t.Context())
			for _, line := range saw {
				t.Log(line)
			}
			require.NoError(t, err)
		})
		if !passed {
			return
		}
	}
}
