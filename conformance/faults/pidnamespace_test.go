package faults

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"testing"

	proto "github.com/dapr/dapr/pkg/proto/components/v1"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/dapr-bolt/dapr-bolt/conformance/harness"
)

// initState makes the state store of component "store" on a bucket, as a sidecar does at its start, and when the value
// of the component's metadata was changed.
func (e *env) initState(b *harness.Bolt, bucket string) *harness.Client {
	e.t.Helper()
	c := e.client(b, "store")
	require.NoError(e.t, c.InitState(e.t.Context(), "bucket", bucket))
	return c
}

// read gets key "whose" as a sidecar that has just lost its connection: the call waits for the next one.
func read(ctx context.Context, c *harness.Client) (string, error) {
	got, err := c.State.Get(ctx, &proto.GetRequest{Key: "whose"}, grpc.WaitForReady(true))
	return string(got.GetData()), err
}

// In a Pod, dapr-bolt and the sidecar do not see each other's processes.
func TestASidecarOutsideThePIDNamespaceIsServedWithWhatItSaidLast(t *testing.T) {
	t.Parallel()
	needsRoot(t, "a PID namespace")
	e := newEnv(t)
	b := e.bolt(harness.BoltOptions{OwnPIDs: true})
	restart := func() {
		b.Kill()
		require.NoError(t, b.Restart(t.Context()))
	}
	serves := func(c *harness.Client, bucket string) {
		t.Helper()
		got, err := read(t.Context(), c)
		require.NoError(t, err)
		require.Equal(t, bucket, got)
	}
	c := e.initState(b, "first")
	require.NoError(t, c.Set(t.Context(), "whose", []byte("first")))
	restart()
	serves(c, "first")
	for i, quiet := range []bool{false, true, true, false} {
		// A changed value: the sidecar closes the connection, which it may not have used since the last restart, and opens
		// another.
		bucket := fmt.Sprintf("changed-%d", i)
		c = e.initState(b, bucket)
		require.NoError(t, c.Set(t.Context(), "whose", []byte(bucket)))
		restart()
		if !quiet {
			serves(c, bucket)
		}
		restart()
	}
	serves(c, "changed-3")
}

// neighbourVariable makes this test binary a second sidecar with a component "store". It does what the lines of its input
// say, and answers each with a line.
const neighbourVariable = "FAULTS_TEST_NEIGHBOUR"

func neighbour(socket string) {
	ctx := context.Background()
	c, err := harness.Dial(socket, "store")
	if err == nil {
		err = c.InitState(ctx, "bucket", "neighbour")
	}
	if err == nil {
		err = c.Set(ctx, "whose", []byte("neighbour"))
	}
	fmt.Println(err)
	for range scan(os.Stdin) {
		got, err := read(ctx, c)
		fmt.Println(got, err)
	}
}

func scan(r io.Reader) func(yield func(string) bool) {
	return func(yield func(string) bool) {
		for s := bufio.NewScanner(r); s.Scan() && yield(s.Text()); {
		}
	}
}

func TestSidecarsOutsideThePIDNamespaceGetTheirOwnDataOrNone(t *testing.T) {
	t.Parallel()
	needsRoot(t, "a PID namespace")
	e := newEnv(t)
	b := e.bolt(harness.BoltOptions{OwnPIDs: true})
	self, err := os.Executable()
	require.NoError(t, err)
	other := exec.CommandContext(t.Context(), self)
	other.Env = []string{neighbourVariable + "=" + socketOf(b)}
	in, err := other.StdinPipe()
	require.NoError(t, err)
	out, err := other.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, other.Start())
	said := bufio.NewScanner(out)
	ask := func() string {
		t.Helper()
		require.True(t, said.Scan(), said.Err())
		return said.Text()
	}
	require.Equal(t, "<nil>", ask())

	for life := range 3 {
		// This one changes its metadata in each life; the neighbour does not.
		bucket := fmt.Sprintf("ours-%d", life)
		c := e.initState(b, bucket)
		require.NoError(t, c.Set(t.Context(), "whose", []byte(bucket)))
		b.Kill()
		require.NoError(t, b.Restart(t.Context()))
		if life == 1 {
			continue // neither calls
		}
		got, err := read(t.Context(), c)
		if err == nil {
			require.Equal(t, bucket, got)
		} else {
			require.Equal(t, codes.FailedPrecondition, status.Code(err), err)
		}
		_, err = fmt.Fprintln(in)
		require.NoError(t, err)
		if theirs := ask(); theirs != "neighbour <nil>" {
			require.Contains(t, theirs, "restart the sidecar")
			require.True(t, strings.HasPrefix(theirs, " "), theirs)
		}
	}
	require.NoError(t, in.Close())
	require.NoError(t, other.Wait())
}
