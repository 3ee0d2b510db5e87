package main

import (
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestASignalEndsItCleanly(t *testing.T) {
	for _, s := range []os.Signal{os.Interrupt, syscall.SIGTERM} {
		t.Run(s.String(), func(t *testing.T) {
			p := start(t, newFolders(t))
			modes := map[string]os.FileMode{
				p.data:                           os.ModeDir | 0o700,
				filepath.Join(p.data, "dapr.db"): 0o600,
				p.adminSocket():                  os.ModeSocket | 0o600,
				p.componentSocket():              os.ModeSocket | 0o600,
			}
			for path, mode := range modes {
				info, err := os.Lstat(path)
				require.NoError(t, err)
				require.Equal(t, mode, info.Mode(), path)
			}
			p.signal(t, s)
			require.Equal(t, exitOK, p.exitCode(t))
			require.NoFileExists(t, p.adminSocket())
			require.NoFileExists(t, p.componentSocket())
			require.Contains(t, p.stderr.String(), "msg=stopped")
		})
	}
}

func TestItSaysWhatListensWhere(t *testing.T) {
	p := start(t, newFolders(t))
	p.stop(t)
	line, _, _ := strings.Cut(p.stderr.String(), "\n")
	for _, want := range []string{
		"level=info", "msg=serving", "scope=dapr-bolt", "type=log", "ver=", "instance=",
		"socket=" + p.componentSocket(), `types="state.bolt, pubsub.bolt"`,
		"file=" + filepath.Join(p.data, "dapr.db"), "admin=" + p.adminSocket(), fmt.Sprintf("pid=%d", p.cmd.Process.Pid),
	} {
		require.Contains(t, line, want)
	}
}

func TestItLogsInDaprsFields(t *testing.T) {
	f := newFolders(t)
	require.NoError(t, os.Mkdir(f.data, 0o755)) // which is worth a warning
	p := start(t, f, "--log-json", "--log-level", "warn")
	p.stop(t)
	require.Equal(t, 1, strings.Count(p.stderr.String(), "\n"), p.stderr.String())
	var entry map[string]string
	require.NoError(t, json.Unmarshal([]byte(p.stderr.String()), &entry))
	require.Equal(t, "warning", entry["level"])
	require.Equal(t, "log", entry["type"])
	require.Equal(t, "dapr-bolt", entry["scope"])
	require.NotEmpty(t, entry["msg"])
	require.NotEmpty(t, entry["ver"])
	require.Contains(t, entry, "instance")
	_, err := time.Parse(time.RFC3339Nano, entry["time"])
	require.NoError(t, err)
}

func TestItDoesNotStartTwice(t *testing.T) {
	first := start(t, newFolders(t))
	holder := fmt.Sprintf("process %d", first.cmd.Process.Pid)
	elsewhere := newFolders(t)

	t.Run("on the same data", func(t *testing.T) {
		second := launch(t, folders{data: first.data, sockets: elsewhere.sockets})
		require.Equal(t, exitFailure, second.exitCode(t))
		require.Contains(t, second.stderr.String(), "could not start")
		require.Contains(t, second.stderr.String(), filepath.Join(first.data, "dapr.db"))
		require.Contains(t, second.stderr.String(), holder)
	})
	t.Run("on the same socket", func(t *testing.T) {
		second := launch(t, folders{data: elsewhere.data, sockets: first.sockets})
		require.Equal(t, exitFailure, second.exitCode(t))
		require.Contains(t, second.stderr.String(), first.componentSocket())
		require.Contains(t, second.stderr.String(), holder)
		require.NoFileExists(t, elsewhere.adminSocket(), "it leaves nothing behind")
	})
	require.Equal(t, exitOK, shell{}.run(t, "health", "--data-dir", first.data).code, "the first one is as well as before")
}

func TestSocketsOfAKilledProcessAreCleared(t *testing.T) {
	f := newFolders(t)
	killed := start(t, f)
	killed.signal(t, syscall.SIGKILL)
	killed.exitCode(t)
	for _, socket := range []string{f.adminSocket(), f.componentSocket()} {
		_, err := os.Lstat(socket)
		require.NoError(t, err, "the kill left it behind")
	}
	p := start(t, f)
	conn, err := net.Dial("unix", f.componentSocket())
	require.NoError(t, err)
	require.NoError(t, conn.Close())
	p.stop(t)
}

func TestASecondSignalEndsItAtOnce(t *testing.T) {
	p := start(t, newFolders(t))
	// A call whose body never comes keeps the admin socket from stopping.
	conn, err := net.Dial("unix", p.adminSocket())
	require.NoError(t, err)
	defer conn.Close()
	_, err = conn.Write([]byte("POST /v1/backup HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\nExpect: 100-continue\r\n\r\n"))
	require.NoError(t, err)
	_, err = conn.Read(make([]byte, 1)) // the handler asks for the body
	require.NoError(t, err)

	p.signal(t, syscall.SIGTERM)
	require.Eventually(t, func() bool {
		_, err := os.Lstat(p.adminSocket())
		return os.IsNotExist(err)
	}, patience, time.Millisecond)
	p.signal(t, syscall.SIGTERM)
	require.Equal(t, exitFailure, p.exitCode(t))
	require.Contains(t, p.stderr.String(), "the stop was cut short by another signal")
	require.NoFileExists(t, p.componentSocket())
}

func TestHTTPListen(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer taken.Close()
	p := launch(t, newFolders(t), "--http-listen", taken.Addr().String())
	require.Equal(t, exitFailure, p.exitCode(t))
	require.Contains(t, p.stderr.String(), "--http-listen: ")
	require.Contains(t, p.stderr.String(), taken.Addr().String()+": another process listens there")
	require.NoFileExists(t, p.componentSocket())

	p = start(t, newFolders(t), "--http-listen", "127.0.0.1:0")
	health := shell{}.run(t, "health", "--data-dir", p.data, "--output", "json")
	require.Equal(t, exitOK, health.code, health.stderr)
	var info struct{ HTTP string }
	require.NoError(t, json.Unmarshal([]byte(health.stdout), &info))
	for _, path := range []string{"/healthz", "/readyz", "/metrics"} {
		resp, err := http.Get("http://" + info.HTTP + path)
		require.NoError(t, err)
		require.NoError(t, resp.Body.Close())
		require.Equal(t, http.StatusOK, resp.StatusCode, path)
	}
	http.DefaultClient.CloseIdleConnections()

	p = start(t, newFolders(t)) // with an empty --http-listen
	health = shell{}.run(t, "health", "--data-dir", p.data, "--output", "json")
	require.NotContains(t, health.stdout, `"http"`)
}

func TestNotReadyOnceItsSocketIsGone(t *testing.T) {
	p := start(t, newFolders(t))
	require.NoError(t, os.Remove(p.componentSocket()))
	health := shell{}.run(t, "health", "--data-dir", p.data)
	require.Equal(t, exitFailure, health.code)
	require.Contains(t, health.stderr, p.componentSocket()+" is gone")
}
