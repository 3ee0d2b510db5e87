package monitoring

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	proto "github.com/dapr/dapr/pkg/proto/components/v1"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"sigs.k8s.io/kustomize/api/krusty"
	"sigs.k8s.io/kustomize/kyaml/filesys"
	"sigs.k8s.io/yaml"

	"github.com/dapr-bolt/dapr-bolt/conformance/harness"
)

// patience bounds each wait for something that must happen.
const patience = 5 * time.Minute

// rule alerts, or records what others go by.
type rule struct {
	Alert, Expr string
	Annotations map[string]string
}

func deployed(t *testing.T, elements ...string) string {
	t.Helper()
	checkout, err := harness.FindCheckout()
	require.NoError(t, err)
	return checkout.Path(append([]string{"deploy"}, elements...)...)
}

func rules(t *testing.T) (all []rule) {
	t.Helper()
	raw, err := os.ReadFile(deployed(t, "monitoring", "rules.yaml"))
	require.NoError(t, err)
	var file struct{ Groups []struct{ Rules []rule } }
	require.NoError(t, yaml.Unmarshal(raw, &file))
	for _, g := range file.Groups {
		all = append(all, g.Rules...)
	}
	require.NotEmpty(t, all)
	return all
}

// alerts are the rules that do not only record what others go by.
func alerts(t *testing.T) []rule {
	t.Helper()
	return slices.DeleteFunc(rules(t), func(r rule) bool { return r.Alert == "" })
}

// program returns the path of one that Debian's package prometheus has.
func program(t *testing.T, name string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		t.Skipf("%s is not installed: on Debian and Ubuntu: apt-get install --no-install-recommends prometheus", name)
	}
	return path
}

func TestRulesFireWhenTheyShould(t *testing.T) {
	promtool := program(t, "promtool")
	for _, args := range [][]string{
		{"check", "rules", deployed(t, "monitoring", "rules.yaml")},
		{"test", "rules", deployed(t, "monitoring", "rules_test.yaml")},
	} {
		out, err := exec.CommandContext(t.Context(), promtool, args...).CombinedOutput()
		require.NoError(t, err, "promtool %q: %s", args, out)
	}
	tests, err := os.ReadFile(deployed(t, "monitoring", "rules_test.yaml"))
	require.NoError(t, err)
	for _, r := range alerts(t) {
		require.Contains(t, string(tests), "alertname: "+r.Alert+"\n        exp_alerts:", "a test in which it fires")
	}
}

// TestEachAlertNamesACommandThatExists runs each command with --help, which checks its name and its flags.
func TestEachAlertNamesACommandThatExists(t *testing.T) {
	bolt, err := harness.BoltProgram()
	require.NoError(t, err)
	for _, r := range alerts(t) {
		command := r.Annotations["command"]
		for _, label := range []string{"database", "bucket", "topic", "group"} {
			command = strings.ReplaceAll(command, "{{ $labels."+label+" }}", label)
		}
		args := strings.Fields(command)
		require.NotEmpty(t, args, r.Alert)
		require.Equal(t, "dapr-bolt", args[0], r.Alert)
		out, err := exec.CommandContext(t.Context(), bolt, append(args[1:], "--help")...).CombinedOutput()
		require.NoError(t, err, "%s: %s", command, out)
		require.NotContains(t, command, "{{", r.Alert)
		usage, _, _ := strings.Cut(args[1], " ")
		require.Contains(t, string(out), "dapr-bolt "+usage, command)
		for _, arg := range args[2:] {
			if flag, is := strings.CutPrefix(arg, "--"); is {
				require.Contains(t, string(out), "--"+flag, command)
			}
		}
	}
}

// TestThePodMonitorFindsThePods holds the overlay to the others: they name the port and carry the label.
func TestThePodMonitorFindsThePods(t *testing.T) {
	build := func(overlay string) string {
		resources, err := krusty.MakeKustomizer(krusty.MakeDefaultOptions()).Run(filesys.MakeFsOnDisk(), deployed(t, "overlays", overlay))
		require.NoError(t, err)
		out, err := resources.AsYaml()
		require.NoError(t, err)
		return string(out)
	}
	var monitor struct {
		Kind string
		Spec struct {
			Selector            struct{ MatchLabels map[string]string }
			PodMetricsEndpoints []struct{ Port, Path string }
		}
	}
	require.NoError(t, yaml.Unmarshal([]byte(build("monitoring")), &monitor))
	require.Equal(t, "PodMonitor", monitor.Kind)
	require.Equal(t, map[string]string{"app.kubernetes.io/part-of": "todo"}, monitor.Spec.Selector.MatchLabels)
	require.Equal(t, "/metrics", monitor.Spec.PodMetricsEndpoints[0].Path)
	for _, overlay := range []string{"pod", "pod-native", "node"} {
		objects := build(overlay)
		require.Contains(t, objects, "name: "+monitor.Spec.PodMetricsEndpoints[0].Port+"\n", overlay)
		require.Contains(t, objects, "app.kubernetes.io/part-of: todo", overlay)
	}
}

// prometheus is a server that scrapes one process each second.
type prometheus struct {
	t   *testing.T
	url string
}

func startPrometheus(t *testing.T, h *harness.Harness, target string) *prometheus {
	t.Helper()
	path := program(t, "prometheus")
	port, err := h.FreePort()
	require.NoError(t, err)
	dir := h.Dir("prometheus")
	require.NoError(t, os.MkdirAll(dir, 0o700))
	config := filepath.Join(dir, "prometheus.yml")
	require.NoError(t, os.WriteFile(config, []byte(fmt.Sprintf(`global: {scrape_interval: 1s, evaluation_interval: 1s}
rule_files: [%q]
scrape_configs:
  - job_name: dapr-bolt
    static_configs: [{targets: [%q]}]
`, deployed(t, "monitoring", "rules.yaml"), target)), 0o600))
	address := net.JoinHostPort("127.0.0.1", strconv.Itoa(port))
	server, err := h.StartServer(harness.ServerOptions{
		Name: "prometheus", Path: path, Address: address,
		Args: []string{"--config.file=" + config, "--storage.tsdb.path=" + filepath.Join(dir, "data"), "--web.listen-address=" + address},
	})
	require.NoError(t, err)
	require.NoError(t, server.WaitReady(t.Context()))
	return &prometheus{t, "http://" + address}
}

func (p *prometheus) get(path string, into any) error {
	ctx, cancel := context.WithTimeout(p.t.Context(), patience)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, p.url+path, nil)
	if err != nil {
		return err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return err
	}
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("%s: %s: %s", path, resp.Status, body)
	}
	return json.Unmarshal(body, into)
}

// query returns how many series an expression has now.
func (p *prometheus) query(expr string) (int, error) {
	var answer struct{ Data struct{ Result []any } }
	err := p.get("/api/v1/query?query="+url.QueryEscape(expr), &answer)
	return len(answer.Data.Result), err
}

// work makes everything happen that the board shows, until ctx ends.
func work(ctx context.Context, t *testing.T, socket string) {
	t.Helper()
	state, err := harness.Dial(socket, "store")
	require.NoError(t, err)
	t.Cleanup(func() { _ = state.Close() })
	require.NoError(t, state.InitState(ctx))
	bus, err := harness.Dial(socket, "bus")
	require.NoError(t, err)
	t.Cleanup(func() { _ = bus.Close() })
	require.NoError(t, bus.InitPubSub(ctx, "consumerID", "app", "maxDeliver", "2", "backOff", "0s"))
	stream, err := bus.Pull(ctx, "orders")
	require.NoError(t, err)
	consumed, worked := make(chan struct{}), make(chan error, 1)
	go func() {
		defer close(consumed)
		for n := 0; ; n++ {
			m, err := stream.Recv()
			if err != nil {
				return
			}
			answer := &proto.PullMessagesRequest{AckMessageId: m.GetId()}
			if string(m.GetData()) == "poison" {
				answer.AckError = &proto.AckMessageError{Message: "poison"}
			}
			if stream.Send(answer) != nil {
				return
			}
		}
	}()
	go func() {
		for n := 0; ctx.Err() == nil; n++ {
			id := strconv.Itoa(n / 2) // every second one is a duplicate
			data := "event"
			if n%20 == 0 {
				data = "poison"
			}
			if err := bus.Publish(ctx, "orders", id, []byte(data)); err != nil {
				worked <- err
				return
			}
			if err := state.Set(ctx, id, []byte("value")); err != nil {
				worked <- err
				return
			}
			if _, err := state.Get(ctx, id); err != nil {
				worked <- err
				return
			}
			if _, err := state.State.Set(ctx, &proto.SetRequest{Key: id, Value: []byte("x"), Etag: &proto.Etag{Value: "wrong"}}); err == nil {
				worked <- fmt.Errorf("a set with a wrong ETag succeeded")
				return
			}
			select {
			case <-time.After(5 * time.Millisecond):
			case <-ctx.Done():
			}
		}
		worked <- nil
	}()
	t.Cleanup(func() {
		require.NoError(t, <-worked)
		<-consumed
	})
}

func TestNoPanelIsEmptyAndNoQueryFails(t *testing.T) {
	program(t, "prometheus")
	h := harness.ForTest(t)
	bolt := harness.StartBolt(t, h, harness.BoltOptions{})
	ctx, cancel := context.WithCancel(t.Context())
	work(ctx, t, filepath.Join(bolt.SocketDir, "bolt.sock"))
	t.Cleanup(cancel) // before what work cleans up
	p := startPrometheus(t, h, bolt.HTTPAddress)

	raw, err := os.ReadFile(deployed(t, "monitoring", "dashboard.json"))
	require.NoError(t, err)
	var board struct {
		Panels []struct {
			Title   string
			Targets []struct{ Expr string }
		}
	}
	require.NoError(t, json.Unmarshal(raw, &board))
	require.NotEmpty(t, board.Panels)
	fill := strings.NewReplacer("$__rate_interval", "30s", "$instance", ".*")
	for _, panel := range board.Panels {
		require.NotEmpty(t, panel.Targets, panel.Title)
		for _, target := range panel.Targets {
			require.EventuallyWithT(t, func(c *assert.CollectT) {
				n, err := p.query(fill.Replace(target.Expr))
				require.NoError(c, err, panel.Title)
				require.Positive(c, n, "%s: %s", panel.Title, target.Expr)
			}, patience, 200*time.Millisecond, "%s: %s", panel.Title, target.Expr)
		}
	}

	// Prometheus evaluates the rules by itself, too, and says what went wrong.
	require.EventuallyWithT(t, func(c *assert.CollectT) {
		var answer struct {
			Data struct {
				Groups []struct {
					Rules []struct{ Name, Health, LastError, State string }
				}
			}
		}
		require.NoError(c, p.get("/api/v1/rules", &answer))
		require.Len(c, answer.Data.Groups, 1)
		require.Len(c, answer.Data.Groups[0].Rules, len(rules(t)))
		for _, r := range answer.Data.Groups[0].Rules {
			require.Equal(c, "ok", r.Health, "%s: %s", r.Name, r.LastError)
			if r.Name == "DaprBoltDeadLetters" {
				require.Equal(c, "firing", r.State, "there are dead letters")
			}
		}
	}, patience, 200*time.Millisecond)
	for _, r := range rules(t) {
		_, err := p.query(r.Expr)
		require.NoError(t, err, r.Expr)
	}
}
