package story_test

import (
	"os"
	"testing"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/dapr-bolt/dapr-bolt/conformance/build"
	"github.com/dapr-bolt/dapr-bolt/conformance/harness"
	"github.com/dapr-bolt/dapr-bolt/conformance/story"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestStory(t *testing.T) {
	checkout, err := build.FindCheckout()
	require.NoError(t, err)
	h, err := harness.New(harness.Options{})
	require.NoError(t, err)
	t.Cleanup(func() {
		if t.Failed() {
			h.Keep()
			t.Logf("logs are in %s", h.Dir("logs"))
		}
		require.NoError(t, h.Close())
	})
	s, err := story.Start(t.Context(), h, checkout, os.Stderr)
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
