package main

import (
	"context"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/dapr-bolt/dapr-bolt/conformance/harness"
	"github.com/dapr-bolt/dapr-bolt/internal/logtest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// What `make run` says to try works as it stands, and shows what it says.
func TestRunSaysWhatToTry(t *testing.T) {
	ctx, interrupt := context.WithCancel(t.Context())
	defer interrupt()
	var said logtest.Buffer
	var ended error
	var running sync.WaitGroup
	running.Go(func() {
		ended = run(ctx, &said, t.TempDir(), harness.TodoOptions{})
	})
	defer running.Wait()
	defer interrupt()

	eventually := func(check func(c *assert.CollectT)) {
		require.EventuallyWithT(t, check, 5*time.Minute, 100*time.Millisecond)
	}
	eventually(func(c *assert.CollectT) { require.Contains(c, said.String(), "Ctrl-C ends all of it.") })
	var try []string
	for line := range strings.Lines(said.String()) {
		if command := strings.TrimSpace(line); strings.HasPrefix(command, "curl ") {
			try = append(try, command)
		}
	}
	require.Len(t, try, 3)
	sh := func(t require.TestingT, command string) string {
		out, err := exec.CommandContext(ctx, "sh", "-c", command).CombinedOutput()
		require.NoError(t, err, "%s: %s", command, out)
		return string(out)
	}
	require.Contains(t, sh(t, try[0]), "Water the plants")
	require.Contains(t, sh(t, try[1]), "Too late")
	eventually(func(c *assert.CollectT) {
		shown := sh(c, try[2])
		assert.Contains(c, shown, `"status":"scheduled"`)
		assert.Contains(c, shown, `"status":"rejected"`)
	})
	_, command, found := strings.Cut(said.String(), "What could not be delivered: ")
	require.True(t, found)
	command, _, _ = strings.Cut(command, "\n")
	require.Contains(t, sh(t, command), "no dead letters")

	interrupt()
	running.Wait()
	require.NoError(t, ended)
	require.Contains(t, said.String(), "\nstopping\n")
}
