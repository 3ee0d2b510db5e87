package main

import (
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/dapr-bolt/dapr-bolt/internal/admin"
	"github.com/dapr-bolt/dapr-bolt/internal/console"
)

func status(t *testing.T, url string, cookies ...*http.Cookie) *http.Response {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
	require.NoError(t, err)
	for _, c := range cookies {
		req.AddCookie(c)
	}
	resp, err := http.DefaultClient.Do(req)
	require.NoError(t, err)
	require.NoError(t, resp.Body.Close())
	return resp
}

func (p *program) address(t *testing.T) string {
	t.Helper()
	client := admin.NewClient(p.adminSocket())
	defer client.Close()
	info, err := admin.CallInfo.Ask(t.Context(), client, admin.Empty{})
	require.NoError(t, err)
	return info.HTTP
}

func TestConsoleLink(t *testing.T) {
	p := start(t, newFolders(t), "--http-listen", "127.0.0.1:0")
	info, err := os.Stat(filepath.Join(p.data, console.TokenFileName))
	require.NoError(t, err)
	require.Equal(t, os.FileMode(0o600), info.Mode())

	link := strings.TrimSpace(p.ok(t, "console"))
	require.True(t, strings.HasPrefix(link, "http://"+p.address(t)+"/"), link)
	let := status(t, link)
	require.Equal(t, http.StatusOK, let.StatusCode)
	topics := "http://" + p.address(t) + "/topics"
	require.Equal(t, http.StatusUnauthorized, status(t, topics).StatusCode)
	require.Equal(t, http.StatusOK, status(t, topics, let.Cookies()...).StatusCode)
	for _, open := range []string{"/healthz", "/readyz", "/metrics"} {
		require.Equal(t, http.StatusOK, status(t, "http://"+p.address(t)+open).StatusCode, "as it was")
	}
	_, token, _ := strings.Cut(link, "token=")
	require.NotContains(t, p.stderr.String(), token)
}

func TestConsoleTokenFile(t *testing.T) {
	f := newFolders(t)
	own := filepath.Join(shortDir(t), "token")
	require.NoError(t, os.WriteFile(own, []byte("a-token-of-my-own\n"), 0o600))
	p := start(t, f, "--http-listen", "127.0.0.1:0", "--console-token-file", own)
	require.Contains(t, p.ok(t, "console"), "a-token-of-my-own")
	require.NoFileExists(t, filepath.Join(f.data, console.TokenFileName))
	p.stop(t)

	require.NoError(t, os.WriteFile(own, []byte("short\n"), 0o600))
	bad := launch(t, f, "--http-listen", "127.0.0.1:0", "--console-token-file", own)
	require.Equal(t, exitFailure, bad.exitCode(t))
	require.Contains(t, bad.stderr.String(), own)
}

func TestConsoleIsOff(t *testing.T) {
	for name, args := range map[string][]string{
		"where it is turned off": {"--http-listen", "127.0.0.1:0", "--console=false"},
		"where others reach it":  {"--http-listen", "0.0.0.0:0"},
	} {
		t.Run(name, func(t *testing.T) {
			p := start(t, newFolders(t), args...)
			address := strings.Replace(p.address(t), "[::]", "127.0.0.1", 1)
			require.Equal(t, http.StatusNotFound, status(t, "http://"+address+"/topics").StatusCode)
			require.Equal(t, http.StatusOK, status(t, "http://"+address+"/healthz").StatusCode)
			got := shell{}.run(t, "console", "--data-dir", p.data)
			require.Equal(t, exitFailure, got.code)
			require.Contains(t, got.stderr, "--console-host")
		})
	}
}

func TestConsoleBehindAProxy(t *testing.T) {
	p := start(t, newFolders(t), "--http-listen", "0.0.0.0:0", "--console-host", "bolt.example.org")
	require.Contains(t, p.stderr.String(), "TLS")
	require.Contains(t, p.ok(t, "console"), "https://bolt.example.org/")
}
