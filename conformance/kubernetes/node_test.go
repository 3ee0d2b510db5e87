package kubernetes_test

import (
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"

	commonapi "github.com/dapr/dapr/pkg/apis/common"
	componentsapi "github.com/dapr/dapr/pkg/apis/components/v1alpha1"
	"github.com/prometheus/procfs"
	"github.com/stretchr/testify/require"
	apiextensions "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"sigs.k8s.io/yaml"
)

// intruder is a user whom nobody has let in.
const intruder = 10099

// connectVariable names a socket for a process of this test that another user runs.
const connectVariable = "KUBERNETES_TEST_CONNECT"

// asUsers makes the node's containers run as their users. That takes root.
func asUsers(t *testing.T, n *node) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("only root may start processes as other users")
	}
	if _, err := exec.LookPath("setpriv"); err != nil {
		t.Skip("setpriv (util-linux) is not installed")
	}
	require.NoError(t, os.Chmod(n.harness.Dir(), 0o755))
	bin := n.harness.Dir("bin")
	require.NoError(t, os.MkdirAll(bin, 0o755))
	n.as = func(t *testing.T, program string, user, group int64) string {
		t.Helper()
		wrapper := filepath.Join(bin, fmt.Sprintf("%s-%d-%d", filepath.Base(program), user, group))
		if _, err := os.Stat(wrapper); err == nil {
			return wrapper
		}
		copied := filepath.Join(bin, filepath.Base(program))
		if _, err := os.Stat(copied); err != nil {
			path, err := exec.LookPath(program)
			require.NoError(t, err)
			copyFile(t, path, copied)
		}
		script := fmt.Sprintf("#!/bin/sh\nexec setpriv --reuid=%d --regid=%d --clear-groups --no-new-privs --pdeathsig=KILL %s \"$@\"\n", user, group, copied)
		require.NoError(t, os.WriteFile(wrapper, []byte(script), 0o755))
		return wrapper
	}
}

func copyFile(t *testing.T, from, to string) {
	t.Helper()
	source, err := os.Open(from)
	require.NoError(t, err)
	defer func() { _ = source.Close() }()
	target, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o755)
	require.NoError(t, err)
	_, err = io.Copy(target, source)
	require.NoError(t, err)
	require.NoError(t, target.Close())
}

// All Pods of a node share one dapr-bolt, each as a user of its own; nobody else reaches it.
func TestNodeIsSharedByPodsOfDifferentUsers(t *testing.T) {
	t.Parallel()
	m := render(t, overlayNode)
	n := newNode(t, m)
	asUsers(t, n)
	bolt := n.run(injected(t, m, "dapr-bolt"))
	bolt.startAll()
	var apis, all []*localPod
	for _, name := range []string{"todo-api", "todo-api", "todo-scheduler", "todo-scheduler"} {
		pod := n.run(injected(t, m, name))
		pod.startAll()
		all = append(all, pod)
		if name == "todo-api" {
			apis = append(apis, pod)
		}
	}

	// Two instances of the api, with sidecars of their own, are one app.
	id := seeSaga(t, apis[0].at("8000"))
	seeStatus(t, apis[1].at("8000"), id, "scheduled")
	seeSaga(t, apis[1].at("8000"))

	users := map[string]bool{}
	for _, pod := range append(all, bolt) {
		for name, process := range pod.processes {
			user := userOf(t, process.PID())
			require.Equal(t, strconv.FormatInt(*pod.pod.Spec.SecurityContext.RunAsUser, 10), user, "%s %s", pod.name, name)
			users[user] = true
		}
	}
	require.Len(t, users, 3)
	socket := filepath.Join(bolt.volumeDir("sockets"), "bolt.sock")
	require.ErrorContains(t, connectAs(t, n, socket, intruder, intruder), "permission denied")
	require.NoError(t, connectAs(t, n, socket, intruder, *bolt.pod.Spec.SecurityContext.RunAsGroup))
	require.ErrorContains(t, connectAs(t, n, filepath.Join(bolt.volumeDir("data"), "dapr-bolt", "admin.sock"),
		*all[0].pod.Spec.SecurityContext.RunAsUser, *all[0].pod.Spec.SecurityContext.RunAsGroup), "permission denied")

	// After a restart of dapr-bolt state is there at once; the sidecars subscribe again when the Component changes.
	bolt.processes["dapr-bolt"].Kill()
	bolt.waitReady()
	seeStatus(t, apis[0].at("8000"), id, "scheduled")
	resubscribe(t, n)
	seeSaga(t, apis[0].at("8000"))

	for _, pod := range all {
		pod.stop()
	}
	bolt.stop()
}

// resubscribe does what README.md says to do to the Component, through the file that stands for it.
func resubscribe(t *testing.T, n *node) {
	t.Helper()
	for i, object := range n.manifests.objects {
		c, ok := object.(*componentsapi.Component)
		if !ok || c.Name != "todo-pubsub" {
			continue
		}
		c = c.DeepCopy()
		require.Equal(t, "resubscribed", c.Spec.Metadata[0].Name)
		c.Spec.Metadata[0].Value = commonapi.DynamicValue{JSON: apiextensions.JSON{Raw: []byte(`"now"`)}}
		raw, err := yaml.Marshal(c)
		require.NoError(t, err)
		require.NoError(t, os.WriteFile(filepath.Join(n.dir, "cluster", fmt.Sprintf("%d.yaml", i)), raw, 0o644))
		return
	}
	require.Fail(t, "the overlay has no todo-pubsub")
}

// userOf reads the effective user of a process.
func userOf(t *testing.T, pid int) string {
	t.Helper()
	p, err := procfs.NewProc(pid)
	require.NoError(t, err)
	status, err := p.NewStatus()
	require.NoError(t, err)
	return strconv.FormatUint(status.UIDs[1], 10)
}

// connectAs has a process of that user connect to a socket.
func connectAs(t *testing.T, n *node, socket string, user, group int64) error {
	t.Helper()
	cmd := exec.Command(n.as(t, os.Args[0], user, group), "-test.run=^TestConnect$", "-test.v")
	cmd.Env = append(os.Environ(), connectVariable+"="+socket)
	cmd.Dir = "/"
	out, err := cmd.CombinedOutput()
	if err != nil {
		return fmt.Errorf("%w: %s", err, out)
	}
	return nil
}

// TestConnect is what connectAs runs as another user.
func TestConnect(t *testing.T) {
	t.Parallel()
	socket := os.Getenv(connectVariable)
	if socket == "" {
		t.Skip("runs as a part of another test")
	}
	conn, err := net.Dial("unix", socket)
	require.NoError(t, err)
	require.NoError(t, conn.Close())
}
