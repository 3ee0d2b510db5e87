package harness

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"time"
)

// clusterSize is how many servers a cluster has: the fewest of which one can be lost.
const clusterSize = 3

// ClusterOptions describe a cluster of servers on 127.0.0.1.
type ClusterOptions struct {
	// Path is the binary.
	Path string
	// Servers is how many there are. Default: 3.
	Servers int
	// Args are given to every server beside what makes it one of the cluster.
	Args []string
}

func (o *ClusterOptions) servers() int {
	if o.Servers == 0 {
		return clusterSize
	}
	return o.Servers
}

const (
	etcdModule = "go.etcd.io/etcd/server/v3"
	natsModule = "github.com/nats-io/nats-server/v2"
)

// EtcdServer returns the path of etcd, built as the sidecar is from the module that conformance/go.mod pins.
func (c Checkout) EtcdServer(ctx context.Context, progress io.Writer) (string, error) {
	return c.serverProgram(ctx, "etcd", etcdModule, progress)
}

// NATSServer returns the path of nats-server, built likewise.
func (c Checkout) NATSServer(ctx context.Context, progress io.Writer) (string, error) {
	return c.serverProgram(ctx, "nats-server", natsModule, progress)
}

func (c Checkout) serverProgram(ctx context.Context, name, module string, progress io.Writer) (string, error) {
	version, err := requiredVersion(c.Path("conformance", "go.mod"), module)
	if err != nil {
		return "", err
	}
	return c.pinnedProgram(ctx, name, version, module, "", progress, "-ldflags", "-s -w")
}

// EtcdSettings are the flags of etcd beside those that make the cluster, as deploy/overlays/cluster has them.
var EtcdSettings = []string{
	"--max-txn-ops=4096",
	"--max-request-bytes=8388608",
	"--quota-backend-bytes=8589934592",
	"--auto-compaction-mode=periodic",
	"--auto-compaction-retention=5m",
}

// Etcd is a cluster of etcd servers.
type Etcd struct {
	Servers []*EtcdMember
}

// EtcdMember is one of them.
type EtcdMember struct {
	*Process
	// Endpoint is its URL for clients.
	Endpoint string
	// Dir holds its data.
	Dir string
}

// StartEtcd starts the servers and waits until each of them serves, which takes a leader. Args default to EtcdSettings.
func (h *Harness) StartEtcd(ctx context.Context, opts ClusterOptions) (*Etcd, error) {
	if opts.Args == nil {
		opts.Args = EtcdSettings
	}
	n := opts.servers()
	names, clients, peers, err := h.members("etcd", n)
	if err != nil {
		return nil, err
	}
	var cluster []string
	for i := range n {
		cluster = append(cluster, names[i]+"=http://"+peers[i])
	}
	var e Etcd
	for i := range n {
		m := &EtcdMember{Endpoint: "http://" + clients[i], Dir: h.Dir(names[i])}
		m.Process, err = h.start(kindServer, spec{
			Name: names[i],
			Path: opts.Path,
			Args: append([]string{
				"--name=" + names[i],
				"--data-dir=" + m.Dir,
				"--listen-client-urls=" + m.Endpoint, "--advertise-client-urls=" + m.Endpoint,
				"--listen-peer-urls=http://" + peers[i], "--initial-advertise-peer-urls=http://" + peers[i],
				"--initial-cluster=" + strings.Join(cluster, ","),
				"--log-level=warn",
			}, opts.Args...),
			Ready: answers(m.Endpoint + "/health"),
			Quiet: true,
		})
		if err != nil {
			return nil, err
		}
		e.Servers = append(e.Servers, m)
	}
	return &e, e.WaitReady(ctx)
}

// WaitReady waits until every server serves.
func (e *Etcd) WaitReady(ctx context.Context) error {
	var all []interface{ WaitReady(context.Context) error }
	for _, m := range e.Servers {
		all = append(all, m)
	}
	return WaitReady(ctx, all...)
}

// Endpoints are the servers' URLs for clients, with commas between them, as a component's metadata has them.
func (e *Etcd) Endpoints() string {
	var all []string
	for _, m := range e.Servers {
		all = append(all, m.Endpoint)
	}
	return strings.Join(all, ",")
}

// Leader returns the server that leads now, as it says itself.
func (e *Etcd) Leader(ctx context.Context) (*EtcdMember, error) {
	for _, m := range e.Servers {
		if m.Leads(ctx) {
			return m, nil
		}
	}
	return nil, errors.New("no server says that it leads")
}

// Leads reports whether the server says that it leads.
func (m *EtcdMember) Leads(ctx context.Context) bool {
	var status struct {
		Leader string
		Header struct {
			Member string `json:"member_id"`
		}
	}
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	response, err := Call(ctx, http.MethodPost, m.Endpoint+"/v3/maintenance/status", []byte("{}"))
	if err == nil {
		err = response.JSON(&status)
	}
	return err == nil && status.Leader == status.Header.Member
}

// NATS is a cluster of nats-servers with JetStream.
type NATS struct {
	Servers []*NATSMember
}

// NATSMember is one of them.
type NATSMember struct {
	*Process
	// URL is where clients find it.
	URL string
	// Monitor is the URL of its monitoring.
	Monitor string
	// Dir holds its data.
	Dir string
}

// natsSettings is the configuration of a server, beside Args: everything is synced before it is acknowledged, as
// deploy/overlays/cluster has it. Batches are as large as the server allows by default.
const natsSettings = `
server_name: %[1]s
listen: %[2]s
http: %[3]s
max_payload: 8MB
jetstream {
  store_dir: %[4]q
  sync_interval: always
  limits { batch { max_inflight_per_stream: 500, max_msgs: 1000 } }
}
%[5]s
`

// StartNATS starts the servers and waits until each of them serves JetStream.
func (h *Harness) StartNATS(ctx context.Context, opts ClusterOptions) (*NATS, error) {
	n := opts.servers()
	names, clients, peers, err := h.members("nats", n)
	if err != nil {
		return nil, err
	}
	var routes []string
	for _, peer := range peers {
		routes = append(routes, "nats://"+peer)
	}
	var all NATS
	for i := range n {
		port, err := h.FreePort()
		if err != nil {
			return nil, err
		}
		m := &NATSMember{URL: "nats://" + clients[i], Monitor: "http://" + address(port), Dir: h.Dir(names[i])}
		cluster := ""
		if n > 1 {
			cluster = fmt.Sprintf("cluster { name: dapr-bolt, listen: %s, routes: [%s] }", peers[i], strings.Join(routes, ", "))
		}
		config := h.Dir(names[i] + ".conf")
		text := fmt.Sprintf(natsSettings, names[i], clients[i], address(port), m.Dir, cluster)
		if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
			return nil, err
		}
		m.Process, err = h.start(kindServer, spec{
			Name:  names[i],
			Path:  opts.Path,
			Args:  append([]string{"--config", config}, opts.Args...),
			Ready: answers(m.Monitor + "/healthz"),
			Quiet: true,
		})
		if err != nil {
			return nil, err
		}
		all.Servers = append(all.Servers, m)
	}
	return &all, all.WaitReady(ctx)
}

// WaitReady waits until every server serves and has its streams.
func (n *NATS) WaitReady(ctx context.Context) error {
	var all []interface{ WaitReady(context.Context) error }
	for _, m := range n.Servers {
		all = append(all, m)
	}
	return WaitReady(ctx, all...)
}

// URL is that of all servers, as a component's metadata has it.
func (n *NATS) URL() string {
	var all []string
	for _, m := range n.Servers {
		all = append(all, m.URL)
	}
	return strings.Join(all, ",")
}

// Leader returns the server that leads JetStream's metadata now.
func (n *NATS) Leader(ctx context.Context) (*NATSMember, error) {
	var errs []error
	for _, m := range n.Servers {
		response, err := Call(ctx, http.MethodGet, m.Monitor+"/jsz", nil)
		var info struct {
			Meta struct {
				Leader string `json:"leader"`
			} `json:"meta_cluster"`
		}
		if err == nil {
			err = json.Unmarshal(response.Body, &info)
		}
		for _, leader := range n.Servers {
			if err == nil && leader.Name() == info.Meta.Leader {
				return leader, nil
			}
		}
		errs = append(errs, err)
	}
	return nil, fmt.Errorf("no server says who leads: %w", errors.Join(errs...))
}

// members names n servers and finds each two addresses: for clients, and for the other servers.
func (h *Harness) members(of string, n int) (names, clients, peers []string, err error) {
	for i := range n {
		client, err1 := h.FreePort()
		peer, err2 := h.FreePort()
		if err := errors.Join(err1, err2); err != nil {
			return nil, nil, nil, err
		}
		names = append(names, fmt.Sprintf("%s-%d", of, i))
		clients, peers = append(clients, address(client)), append(peers, address(peer))
	}
	return names, clients, peers, nil
}
