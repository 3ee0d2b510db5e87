package kubernetes_test

import (
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"gopkg.in/yaml.v3"

	"github.com/dapr-bolt/dapr-bolt/conformance/harness"
)

// TestDaprRun has the Dapr CLI run cmd/todo/dapr.yaml, on ports that are free and otherwise as it is.
func TestDaprRun(t *testing.T) {
	checkout, err := harness.FindCheckout()
	require.NoError(t, err)
	cli, err := checkout.DaprCLI()
	if err != nil {
		t.Skip(err)
	}
	programs, err := harness.TestPrograms()
	require.NoError(t, err)
	h := harness.ForTest(t)
	_, err = h.StartBolt(t.Context(), harness.BoltOptions{Path: programs.Bolt})
	require.NoError(t, err)

	home, err := h.DaprHome(programs.Daprd)
	require.NoError(t, err)
	runFile, ports, sidecars := onFreePorts(t, h, checkout.Path("cmd", "todo", "dapr.yaml"))
	app, err := h.StartApp(harness.AppOptions{
		Name: "dapr-run", Path: cli, Args: []string{"run", "-f", runFile},
		// With -f the CLI (1.16) does not look at --runtime-path, but at this variable.
		Env:  []string{"DAPR_RUNTIME_PATH=" + home, "DAPR_COMPONENTS_SOCKETS_FOLDER=" + h.SocketDir()},
		Port: ports[0],
	})
	require.NoError(t, err)
	require.NoError(t, app.WaitReady(t.Context()))
	seeSaga(t, "http://"+app.Address)
	// A sidecar that looks for a placement or scheduler service that is not there stays at 500.
	for _, port := range sidecars {
		require.EventuallyWithT(t, func(c *assertCollect) {
			response, err := harness.Call(t.Context(), http.MethodGet, fmt.Sprintf("http://127.0.0.1:%d/v1.0/healthz", port), nil)
			require.NoError(c, err)
			require.NoError(c, response.OK())
		}, seen, 50*time.Millisecond)
	}

	// Ctrl-C, or SIGTERM, ends both apps and both sidecars.
	require.NoError(t, app.Stop())
	for _, port := range ports {
		require.Eventually(t, func() bool { return harness.CheckPort(port) == nil }, seen, 50*time.Millisecond, "an app outlived the CLI")
	}
}

// onFreePorts writes a copy of the run file with the apps and the HTTP APIs of their sidecars on free ports, and returns
// those.
func onFreePorts(t *testing.T, h *harness.Harness, path string) (copied string, ports, sidecars []int) {
	t.Helper()
	raw, err := os.ReadFile(path)
	require.NoError(t, err)
	var file map[string]any
	require.NoError(t, yaml.Unmarshal(raw, &file))
	absolute := func(relative any) string { return filepath.Join(filepath.Dir(path), relative.(string)) }
	common := file["common"].(map[string]any)
	for i, folder := range common["resourcesPaths"].([]any) {
		common["resourcesPaths"].([]any)[i] = absolute(folder)
	}
	for i, entry := range file["apps"].([]any) {
		app := entry.(map[string]any)
		app["appDirPath"] = absolute(app["appDirPath"])
		require.Equal(t, 8000+i, app["appPort"], "the default of the service")
		port, err := h.FreePort()
		require.NoError(t, err)
		ports = append(ports, port)
		app["appPort"] = port
		port, err = h.FreePort()
		require.NoError(t, err)
		sidecars = append(sidecars, port)
		app["daprHTTPPort"] = port
	}
	raw, err = yaml.Marshal(file)
	require.NoError(t, err)
	copied = h.Dir("dapr.yaml")
	require.NoError(t, os.WriteFile(copied, raw, 0o644))
	return copied, ports, sidecars
}
