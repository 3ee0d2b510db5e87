package harness_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/prometheus/procfs"
	"github.com/stretchr/testify/require"

	"github.com/dapr-bolt/dapr-bolt/conformance/harness"
)

// A process that starts a child through the harness and is killed takes it along.
func TestChildrenDieWithTheirParent(t *testing.T) {
	if pidFile := os.Getenv("HARNESS_TEST_PID_FILE"); pidFile != "" {
		h, err := harness.New(harness.Options{})
		require.NoError(t, err)
		app, err := h.StartApp(harness.AppOptions{Name: "child", Path: "/bin/sleep", Args: []string{"1000"}})
		require.NoError(t, err)
		require.NoError(t, os.WriteFile(pidFile+".new", []byte(h.Dir()+" "+strconv.Itoa(app.PID())), 0o644))
		require.NoError(t, os.Rename(pidFile+".new", pidFile))
		<-t.Context().Done()
	}
	pidFile := filepath.Join(t.TempDir(), "pid")
	parent := exec.Command(os.Args[0], "-test.run=^TestChildrenDieWithTheirParent$")
	parent.Env = append(os.Environ(), "HARNESS_TEST_PID_FILE="+pidFile)
	require.NoError(t, parent.Start())
	require.Eventually(t, func() bool { _, err := os.Stat(pidFile); return err == nil }, 5*time.Minute, 10*time.Millisecond)
	raw, err := os.ReadFile(pidFile)
	require.NoError(t, err)
	dir, number, _ := strings.Cut(string(raw), " ")
	t.Cleanup(func() { require.NoError(t, os.RemoveAll(dir)) })
	pid, err := strconv.Atoi(number)
	require.NoError(t, err)
	require.NoError(t, syscall.Kill(pid, 0))

	require.NoError(t, parent.Process.Kill())
	_ = parent.Wait()
	require.Eventually(t, func() bool { return gone(pid) }, 5*time.Minute, 10*time.Millisecond)
}

// gone is true for a process that is dead, also if nobody has collected it yet.
func gone(pid int) bool {
	p, err := procfs.NewProc(pid)
	if err != nil {
		return syscall.Kill(pid, 0) != nil
	}
	stat, err := p.Stat()
	return err != nil || stat.State == "Z"
}
