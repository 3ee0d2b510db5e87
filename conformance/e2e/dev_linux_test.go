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

	proto "github.com/dapr/dapr/pkg/proto/components/v1"

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

// TestDevSaysWhatFails runs no app: the test is the sidecar. An event is reported when it fails, long before it dies, and
// many that die of one cause do not fill the terminal.
func TestDevSaysWhatFails(t *testing.T) {
	t.Parallel()
	programs, err := harness.TestPrograms()
	require.NoError(t, err)
	h := harness.ForTest(t)
	sockets, work := h.SocketDir(), h.Dir("shop")
	require.NoError(t, os.MkdirAll(work, 0o755))
	dev := exec.Command(programs.Bolt, "dev", "--data-dir", h.Dir("data"), "--socket-dir", sockets, "--http-listen=")
	dev.Dir = work
	printed := &output{}
	dev.Stdout, dev.Stderr = printed, printed
	require.NoError(t, dev.Start())
	defer func() { // unless it has ended
		_ = syscall.Kill(dev.Process.Pid, syscall.SIGKILL)
	}()
	says := func(text string) {
		t.Helper()
		require.EventuallyWithT(t, func(c *assert.CollectT) {
			require.Contains(c, strings.Join(printed.words(), " "), text)
		}, patience, poll)
	}
	says("start each app in a terminal of its own")

	fails := func(topic string, texts []string, settings ...string) func(id string) {
		client, err := harness.Dial(filepath.Join(sockets, "bolt.sock"), topic)
		require.NoError(t, err)
		t.Cleanup(func() { require.NoError(t, client.Close()) })
		require.NoError(t, client.InitPubSub(t.Context(), append([]string{"consumerID", "shop"}, settings...)...))
		stream, err := client.Pull(t.Context(), topic)
		require.NoError(t, err)
		go func() {
			for i := 0; ; i++ {
				message, err := stream.Recv()
				if err != nil {
					return
				}
				text := texts[i%len(texts)]
				if stream.Send(&proto.PullMessagesRequest{AckMessageId: message.GetId(), AckError: &proto.AckMessageError{Message: text}}) != nil {
					return
				}
			}
		}()
		return func(id string) { require.NoError(t, client.Publish(t.Context(), topic, id, []byte(`{}`))) }
	}
	fails("orders", []string{"no slot"})("order-1")
	says("app shop did not handle event order-1 of topic orders, which comes again: no slot")

	publish := fails("mails", []string{"no paper", "no ink"}, "maxDeliver", "1")
	for i := range 200 {
		publish("mail-" + strconv.Itoa(i))
	}
	says("more of the same: app shop did not handle event mail-")
	require.Equal(t, 1, strings.Count(strings.Join(printed.words(), " "), "no slot"), "said once, however often it fails")

	require.NoError(t, dev.Process.Signal(os.Interrupt))
	require.NoError(t, dev.Wait(), "%v", printed.words())
}
