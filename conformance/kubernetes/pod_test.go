package kubernetes_test

import (
	"context"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"

	"github.com/dapr-bolt/dapr-bolt/conformance/harness"
)

// seen is how long a step of the todo app may take to be seen, after whatever was done to its Pod.
const seen = 5 * time.Minute

// addTodo makes a todo at the api and returns its id.
func addTodo(t *testing.T, api, title, due string) string {
	t.Helper()
	var made struct {
		ID string `json:"id"`
	}
	require.EventuallyWithT(t, func(c *assertCollect) {
		response, err := harness.Call(t.Context(), http.MethodPost, api+"/todos", map[string]string{"title": title, "due": due})
		require.NoError(c, err)
		require.Equal(c, http.StatusCreated, response.Status, "%s", response.Body)
		require.NoError(c, response.JSON(&made))
	}, seen, 200*time.Millisecond)
	return made.ID
}

func statusOf(ctx context.Context, api, id string) (string, error) {
	response, err := harness.Call(ctx, http.MethodGet, api+"/todos/"+id, nil)
	if err != nil {
		return "", err
	}
	var todo struct {
		Status string `json:"status"`
	}
	if err := response.OK(); err != nil {
		return "", err
	}
	return todo.Status, response.JSON(&todo)
}

func seeStatus(t *testing.T, api, id, want string) {
	t.Helper()
	require.EventuallyWithT(t, func(c *assertCollect) {
		status, err := statusOf(t.Context(), api, id)
		require.NoError(c, err)
		require.Equal(c, want, status)
	}, seen, 50*time.Millisecond)
}

// seeSaga plays both ends of the saga: events flow from the api to the scheduler and back.
func seeSaga(t *testing.T, api string) (scheduled string) {
	t.Helper()
	scheduled = addTodo(t, api, "Water the plants", "2099-12-31")
	rejected := addTodo(t, api, "Too late", "2001-01-01")
	seeStatus(t, api, scheduled, "scheduled")
	seeStatus(t, api, rejected, "rejected")
	return scheduled
}

// order returns the names of the containers in the order in which they were gone.
func order(ends []end) []string {
	slices.SortStableFunc(ends, func(a, b end) int { return int(a.to - b.to) })
	var names []string
	for _, e := range ends {
		names = append(names, e.name)
	}
	return names
}

func TestPodRunsTheTodoApp(t *testing.T) {
	t.Parallel()
	for _, overlay := range []string{overlayPod, overlayNative} {
		t.Run(overlay, func(t *testing.T) {
			m := render(t, overlay)
			n := newNode(t, m)
			pod := n.run(injected(t, m, "todo"))
			pod.startAll()
			api := pod.at("8000")
			id := seeSaga(t, api)
			if overlay == overlayNative {
				for _, name := range []string{"dapr-bolt", "scheduler-daprd", sidecarContainer} {
					require.Zero(t, pod.restarted(name), "in this order nobody starts in vain")
				}
			}
			checkTokens(t, pod)
			// The Subscription resources and what the app asks for are one subscription per topic.
			require.EventuallyWithT(t, func(c *assertCollect) {
				log, err := os.ReadFile(pod.processes["scheduler"].LogPath())
				require.NoError(c, err)
				require.Equal(c, 1, strings.Count(string(log), `"msg":"Event handled","app_id":"todo-scheduler","event":"task-created.`+id+`"`))
			}, seen, 50*time.Millisecond)

			// The nightly backup reaches dapr-bolt through the volume, and its copy is whole.
			backup := n.run(injected(t, m, "dapr-bolt-backup"))
			for _, c := range backup.pod.Spec.Containers {
				backup.finish(c)
			}
			copies, err := filepath.Glob(filepath.Join(backup.volumeDir("backups"), "*.db"))
			require.NoError(t, err)
			require.Len(t, copies, 1)

			ends := pod.stop()
			t.Logf("%s: gone after: %v", overlay, ends)
			require.Equal(t, "dapr-bolt", order(ends)[len(ends)-1], "dapr-bolt is the last to end")

			// The next Pod finds everything on the claim.
			next := n.run(injected(t, m, "todo"))
			next.startAll()
			seeStatus(t, next.at("8000"), id, "scheduled")
			seeSaga(t, next.at("8000"))
			next.stop()
		})
	}
}

// checkTokens wants both sidecars to refuse who has no token, and the apps to refuse events that are not a sidecar's.
func checkTokens(t *testing.T, pod *localPod) {
	t.Helper()
	for _, port := range []string{"3500", "3510"} {
		response, err := harness.Call(t.Context(), http.MethodPost, pod.at(port)+"/v1.0/shutdown", nil)
		require.NoError(t, err)
		require.Equal(t, http.StatusUnauthorized, response.Status, "the sidecar at %s", port)
		response, err = harness.Call(t.Context(), http.MethodGet, pod.at(port)+"/v1.0/metadata", nil, "dapr-api-token", secrets["dapr-api-token"])
		require.NoError(t, err)
		require.NotEqual(t, http.StatusOK, response.Status, "metadata is none of the allowed APIs")
	}
	response, err := harness.Call(t.Context(), http.MethodPost, pod.at("8001")+"/events/task-created", map[string]string{"id": "x"})
	require.NoError(t, err)
	require.Equal(t, http.StatusUnauthorized, response.Status)
}

func TestInjectedContainerServesOneService(t *testing.T) {
	t.Parallel()
	m := render(t, overlaySidecar)
	n := newNode(t, m)
	pod := n.run(injected(t, m, "todo-api"))
	pod.startAll()
	id := addTodo(t, pod.at("8000"), "Water the plants", "2099-12-31")
	require.FileExists(t, filepath.Join(n.dir, "claim.dapr-bolt-data", "dapr-bolt", "dapr.db"))
	ends := pod.stop()
	require.Equal(t, "dapr-bolt", order(ends)[len(ends)-1])

	next := n.run(injected(t, m, "todo-api"))
	next.startAll()
	_, err := statusOf(t.Context(), next.at("8000"), id)
	require.NoError(t, err)
	next.stop()
}

// A sidecar that is faster than dapr-bolt ends, and the kubelet starts it again until it finds the socket.
func TestPodRecoversWhenTheSidecarIsFirst(t *testing.T) {
	t.Parallel()
	m := render(t, overlayPod)
	pod := newNode(t, m).run(injected(t, m, "todo"))
	pod.start("api", sidecarContainer)
	require.Eventually(t, func() bool { return pod.restarted(sidecarContainer) > 0 }, seen, 20*time.Millisecond)
	require.Contains(t, readLog(t, pod.processes[sidecarContainer]), "couldn't find")
	pod.start("dapr-bolt", "scheduler", "scheduler-daprd")
	pod.waitReady()
	seeSaga(t, pod.at("8000"))
	t.Logf("the sidecar was started again %d times", pod.restarted(sidecarContainer))
	pod.stop()
}

// A container that needs too much memory is killed with SIGKILL, alone; the kubelet starts it again.
func TestPodOutlivesTheKillOfEachContainer(t *testing.T) {
	t.Parallel()
	m := render(t, overlayPod)
	pod := newNode(t, m).run(injected(t, m, "todo"))
	pod.startAll()
	api := pod.at("8000")
	id := seeSaga(t, api)
	for _, name := range []string{"dapr-bolt", sidecarContainer, "scheduler-daprd", "scheduler", "api"} {
		t.Run(name, func(t *testing.T) {
			killed := time.Now()
			pod.processes[name].Kill()
			require.Eventually(t, func() bool { return pod.restarted(name) > 0 }, seen, 10*time.Millisecond)
			seeStatus(t, api, id, "scheduled")
			back := time.Since(killed)
			seeSaga(t, api)
			t.Logf("state is back after %s, the whole saga after %s", back.Round(10*time.Millisecond), time.Since(killed).Round(10*time.Millisecond))
		})
	}
	pod.stop()
}

func ports(c corev1.Container) []int32 {
	var numbers []int32
	for _, p := range c.Ports {
		numbers = append(numbers, p.ContainerPort)
	}
	return numbers
}

// All containers of a Pod share one network: no two may listen on one port.
func TestPortsOfAPodAreDistinct(t *testing.T) {
	t.Parallel()
	for _, test := range []struct{ overlay, name string }{
		{overlayPod, "todo"}, {overlayNative, "todo"}, {overlaySidecar, "todo-api"}, {overlayNode, "todo-api"}, {overlayNode, "todo-scheduler"},
		{overlayCluster, "todo-api"}, {overlayCluster, "todo-scheduler"},
	} {
		taken := map[int32]string{3501: sidecarContainer} // its public port is not among its container ports
		pod := injected(t, render(t, test.overlay), test.name)
		for _, c := range containersOf(pod.Spec) {
			for _, port := range ports(c) {
				require.Empty(t, taken[port], "%s: port %d of %s", test.overlay, port, c.Name)
				taken[port] = c.Name
			}
		}
	}
}
