package kubernetes_test

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	componentsapi "github.com/dapr/dapr/pkg/apis/components/v1alpha1"
	"github.com/stretchr/testify/require"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	policyv1 "k8s.io/api/policy/v1"

	"github.com/dapr-bolt/dapr-bolt/conformance/harness"
)

// servers are a StatefulSet of three, which run here as processes: what they are told is theirs, but for addresses and folders.
type servers struct {
	set appsv1.StatefulSet
	// ports are those of this machine, by server and by what the containers call them.
	ports []map[int32]int
}

func setNamed(t *testing.T, m manifests, name string) appsv1.StatefulSet {
	t.Helper()
	for _, set := range all[*appsv1.StatefulSet](m) {
		if set.Name == name {
			return *set
		}
	}
	require.Fail(t, "no StatefulSet "+name)
	return appsv1.StatefulSet{}
}

// place returns a text of the server's, or of a client's, with what is here in place of what is there.
func (s *servers) place(i int, text, data, certificates string) string {
	text = strings.ReplaceAll(text, "$(NAME)", s.podName(i))
	for j, ports := range s.ports {
		for there, here := range ports {
			text = strings.ReplaceAll(text, fmt.Sprintf("%s.%s:%d", s.podName(j), s.set.Name, there), address(here))
		}
	}
	for there, here := range s.ports[i] {
		text = strings.ReplaceAll(text, fmt.Sprintf("0.0.0.0:%d", there), address(here))
	}
	text = strings.ReplaceAll(text, "/tls/", certificates+"/")
	return regexp.MustCompile(`/data\b`).ReplaceAllString(text, data)
}

func (s *servers) podName(i int) string { return s.set.Name + "-" + strconv.Itoa(i) }

func address(port int) string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(port)) }

// startServers starts the containers of the set with the program, and the text of a configuration file where they have one.
func startServers(t *testing.T, h *harness.Harness, set appsv1.StatefulSet, program, config, certificates string, env ...string) *servers {
	t.Helper()
	s := &servers{set: set}
	c := set.Spec.Template.Spec.Containers[0]
	for range int(*set.Spec.Replicas) {
		ports := map[int32]int{}
		for _, p := range c.Ports {
			here, err := h.FreePort()
			require.NoError(t, err)
			ports[p.ContainerPort] = here
		}
		s.ports = append(s.ports, ports)
	}
	for i := range s.ports {
		data := h.Dir(s.podName(i))
		var args []string
		for _, arg := range c.Command[1:] {
			args = append(args, s.place(i, arg, data, certificates))
		}
		if config != "" {
			file := h.Dir(s.podName(i) + ".conf")
			require.NoError(t, os.WriteFile(file, []byte(s.place(i, config, data, certificates)), 0o600))
			args[len(args)-1] = file
		}
		_, err := h.StartServer(harness.ServerOptions{
			Name: s.podName(i), Path: program, Args: args, Address: address(s.ports[i][c.Ports[0].ContainerPort]),
			Env: append([]string{"NAME=" + s.podName(i)}, env...),
		})
		require.NoError(t, err)
	}
	return s
}

// The servers of the overlay start as they are told, with certificates of the overlay's script, and dapr-bolt takes them as the
// overlay's components name them.
func TestClusterServers(t *testing.T) {
	t.Parallel()
	m := render(t, overlayCluster)
	certificates := harness.MakeCertificates(t)
	etcdProgram, err := harness.EtcdProgram()
	require.NoError(t, err)
	natsProgram, err := harness.NATSProgram()
	require.NoError(t, err)
	config := ""
	for _, c := range all[*corev1.ConfigMap](m) {
		config += c.Data["nats.conf"]
	}
	h := harness.ForTest(t)
	etcd := startServers(t, h, setNamed(t, m, "etcd"), etcdProgram, "", certificates.Etcd)
	nats := startServers(t, h, setNamed(t, m, "nats"), natsProgram, config, certificates.NATS, "PASSWORD=secret")

	secrets := map[string]string{"nats-user/password": "secret"}
	for _, file := range []string{"ca.crt", "tls.crt", "tls.key"} {
		text, err := os.ReadFile(filepath.Join(certificates.Client, file))
		require.NoError(t, err)
		secrets["dapr-bolt-tls/"+file] = string(text)
	}
	bolt := harness.StartBolt(t, h, harness.BoltOptions{})
	for _, component := range all[*componentsapi.Component](m) {
		settings := []string{"consumerID", "g"}
		for _, item := range component.Spec.Metadata {
			value := item.Value.String()
			if ref := item.SecretKeyRef; ref.Name != "" {
				value = secrets[ref.Name+"/"+ref.Key]
				require.NotEmpty(t, value, "secret %s", ref)
			}
			settings = append(settings, item.Name, nats.place(0, etcd.place(0, value, "", ""), "", ""))
		}
		c, err := harness.Dial(filepath.Join(bolt.SocketDir, "bolt.sock"), component.Name)
		require.NoError(t, err)
		t.Cleanup(func() { require.NoError(t, c.Close()) })
		init, call := c.InitState, func() error { return c.Set(t.Context(), "k", []byte("v")) }
		if component.Spec.Type == "pubsub.bolt" {
			init, call = c.InitPubSub, func() error { return c.Publish(t.Context(), "t", "1", []byte("x")) }
		}
		// The servers may not have found each other yet.
		require.EventuallyWithT(t, func(collect *assertCollect) { require.NoError(collect, init(t.Context(), settings...)) }, seen, time.Second)
		require.NoError(t, call())
	}
}

// What the servers are started with is what the tests' servers are, of the version that the tests run, and as confined as all
// else.
func TestClusterServersAreConfined(t *testing.T) {
	m := render(t, overlayCluster)
	checkout, err := harness.FindCheckout()
	require.NoError(t, err)
	goMod, err := os.ReadFile(checkout.Path("conformance", "go.mod"))
	require.NoError(t, err)
	for name, module := range map[string]string{"etcd": "go.etcd.io/etcd/server/v3", "nats": "github.com/nats-io/nats-server/v2"} {
		set := setNamed(t, m, name)
		c := set.Spec.Template.Spec.Containers[0]
		version := "v" + strings.TrimPrefix(c.Image[strings.LastIndex(c.Image, ":")+1:], "v")
		require.Regexp(t, regexp.QuoteMeta(module+" "+version)+`\s`, string(goMod), "conformance/go.mod pins another version than %s", version)
		require.True(t, *set.Spec.Template.Spec.SecurityContext.RunAsNonRoot)
		require.True(t, *c.SecurityContext.ReadOnlyRootFilesystem)
		require.False(t, *c.SecurityContext.AllowPrivilegeEscalation)
		require.False(t, *set.Spec.Template.Spec.AutomountServiceAccountToken)
		require.NotEmpty(t, set.Spec.Template.Spec.Affinity.PodAntiAffinity.RequiredDuringSchedulingIgnoredDuringExecution)
	}
	for _, flag := range harness.EtcdSettings {
		require.Contains(t, setNamed(t, m, "etcd").Spec.Template.Spec.Containers[0].Command, flag)
	}
	budgets := map[string]bool{}
	for _, b := range all[*policyv1.PodDisruptionBudget](m) {
		require.Equal(t, 1, b.Spec.MaxUnavailable.IntValue())
		budgets[b.Name] = true
	}
	require.Equal(t, map[string]bool{"etcd": true, "nats": true, "todo-api": true, "todo-scheduler": true}, budgets)
	// The Pods of the apps are those that the servers' policies let in, and that may go out to them.
	for _, d := range all[*appsv1.Deployment](m) {
		require.Greater(t, *d.Spec.Replicas, int32(1))
		require.Zero(t, d.Spec.Strategy.RollingUpdate.MaxUnavailable.IntValue())
		require.Equal(t, "kubernetes.io/hostname", d.Spec.Template.Spec.TopologySpreadConstraints[0].TopologyKey)
		for _, label := range []string{"todo/state", "todo/events", "app.kubernetes.io/part-of"} {
			require.NotEmpty(t, d.Spec.Template.Labels[label])
		}
		for _, v := range d.Spec.Template.Spec.Volumes {
			require.NotNil(t, v.EmptyDir, "a Pod needs no claim")
		}
	}
	policies := map[string]networkingv1.NetworkPolicySpec{}
	for _, p := range all[*networkingv1.NetworkPolicy](m) {
		policies[p.Name] = p.Spec
	}
	require.Equal(t, "etcd", policies["etcd"].Ingress[0].From[0].PodSelector.MatchLabels["todo/state"])
	require.Equal(t, "nats", policies["nats"].Ingress[0].From[0].PodSelector.MatchLabels["todo/events"])
	require.Equal(t, map[string]string{"todo/state": "etcd", "todo/events": "nats"}, policies["todo-servers"].PodSelector.MatchLabels)
}
