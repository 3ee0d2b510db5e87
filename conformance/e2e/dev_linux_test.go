package e2e_test

import (
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/dapr-bolt/dapr-bolt/conformance/harness"
)

// terminal starts the command as the foreground of a new terminal, and returns the other end of that and what is printed.
func terminal(t *testing.T, cmd *exec.Cmd) (keyboard *os.File, printed *output) {
	t.Helper()
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR, 0)
	require.NoError(t, err)
	require.NoError(t, unix.IoctlSetPointerInt(int(master.Fd()), unix.TIOCSPTLCK, 0))
	number, err := unix.IoctlGetInt(int(master.Fd()), unix.TIOCGPTN)
	require.NoError(t, err)
	slave, err := os.OpenFile("/dev/pts/"+strconv.Itoa(number), os.O_RDWR|unix.O_NOCTTY, 0)
	require.NoError(t, err)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = slave, slave, slave
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	require.NoError(t, cmd.Start())
	require.NoError(t, slave.Close())
	printed = &output{}
	read := make(chan struct{})
	go func() {
		defer close(read)
		_, _ = io.Copy(printed, master) // it ends with an error when the last process has closed the terminal
	}()
	t.Cleanup(func() {
		<-read
		_ = master.Close()
	})
	return master, printed
}

// TestDevOnATerminal has the real Dapr CLI run an app under `dapr-bolt dev`, and ends all of it with Ctrl-C.
func TestDevOnATerminal(t *testing.T) {
	t.Parallel()
	checkout, err := harness.FindCheckout()
	require.NoError(t, err)
	cli, err := checkout.DaprCLI()
	if err != nil {
		t.Skip(err)
	}
	programs, err := harness.TestPrograms()
	require.NoError(t, err)
	h := harness.ForTest(t)
	home, err := h.DaprHome(programs.Daprd)
	require.NoError(t, err)
	var ports [4]int
	for i := range ports {
		ports[i], err = h.FreePort()
		require.NoError(t, err)
	}
	work, notes := h.Dir("shop"), h.Dir("notes")
	require.NoError(t, os.MkdirAll(work, 0o755))
	bolt := &harness.Bolt{DataDir: h.Dir("data"), SocketDir: h.SocketDir(), HTTPAddress: "127.0.0.1:" + strconv.Itoa(ports[3])}
	dev := exec.Command(programs.Bolt, "dev", "--data-dir", bolt.DataDir, "--socket-dir", bolt.SocketDir, "--http-listen", bolt.HTTPAddress,
		"--app-port", strconv.Itoa(ports[0]), "--dapr-http-port", strconv.Itoa(ports[1]), "--dapr-grpc-port", strconv.Itoa(ports[2]),
		"--", os.Args[0])
	dev.Dir = work
	dev.Env = append(os.Environ(), "HOME="+home, "PATH="+filepath.Dir(cli)+":"+os.Getenv("PATH"),
		appVariable+"=notes", portVariable+"="+strconv.Itoa(ports[0]), controlVariable+"="+notes)
	began := time.Now()
	keyboard, printed := terminal(t, dev)
	defer func() { // unless it has ended
		_ = syscall.Kill(dev.Process.Pid, syscall.SIGKILL)
	}()

	d := &harness.Daprd{AppID: "shop", HTTPPort: ports[1], GRPCPort: ports[2]}
	eventually := func(check func(c *assert.CollectT)) {
		t.Helper()
		require.EventuallyWithT(t, check, patience, poll, "%s", strings.Join(printed.words(), " "))
	}
	eventually(func(c *assert.CollectT) {
		r, err := d.Call(t.Context(), http.MethodGet, "/v1.0/healthz", nil)
		require.NoError(c, err)
		require.NoError(c, r.OK())
	})
	t.Logf("the sidecar is up after %s", time.Since(began))
	for _, id := range []string{"1", "poison", "2"} {
		require.NoError(t, d.Publish(t.Context(), pubsubName, "orders", id, map[string]string{"cloudevent.id": id}))
	}
	eventually(func(c *assert.CollectT) {
		text, err := os.ReadFile(notes)
		require.NoError(c, err)
		require.Equal(c, "1\n2\n", string(text))
		require.Contains(c, strings.Join(printed.words(), " "),
			"The console: http://"+bolt.HTTPAddress)
		require.Contains(c, strings.Join(printed.words(), " "),
			"dead letter 1: app shop did not handle event poison of topic orders in 1 attempt: no slot (status 500)")
	})

	t.Logf("its events and the dead letter were seen after %s", time.Since(began))

	_, err = keyboard.WriteString("\x03")
	require.NoError(t, err)
	require.NoError(t, dev.Wait(), "%v", printed.words())
	// The ports are free again: neither the app nor its sidecar nor dapr-bolt is left.
	for _, port := range ports {
		eventually(func(c *assert.CollectT) { require.NoError(c, harness.CheckPort(port)) })
	}
	require.NoFileExists(t, filepath.Join(bolt.SocketDir, "bolt.sock"))
}
