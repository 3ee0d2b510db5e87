package harness

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
)

// clusterSize is how many servers a cluster has: the fewest of which one can be lost.
const clusterSize = 3

// ClusterOptions describe a cluster of servers.
type ClusterOptions struct {
	// Path is the binary.
	Path string
	// Servers is how many there are. Default: 3.
	Servers int
	// Args are given to every server beside what makes it one of the cluster.
	Args []string
	// Certificates is a folder with ca.crt, tls.crt and tls.key, with which the servers talk TLS, also among themselves. Default:
	// they do not. Whether clients must show a certificate is for Args and Config to say.
	Certificates string
	// Config is added to the configuration file of each nats-server.
	Config string
	// Network is where they run. Default: 127.0.0.1, where none can be cut off.
	Network *Network
}

func (o *ClusterOptions) scheme() string {
	if o.Certificates == "" {
		return "http://"
	}
	return "https://"
}

func (o *ClusterOptions) certificate(name string) string { return filepath.Join(o.Certificates, name) }

// Servers are a cluster of each kind, which hold the state and the events of all dapr-bolts.
type Servers struct {
	Etcd *Etcd
	NATS *NATS
}

// StartServers starts three servers of each kind; the programs are built first if they are missing.
func (h *Harness) StartServers(ctx context.Context, checkout Checkout) (*Servers, error) {
	etcd, err1 := checkout.EtcdServer(ctx)
	nats, err2 := checkout.NATSServer(ctx)
	if err := errors.Join(err1, err2); err != nil {
		return nil, err
	}
	var s Servers
	return &s, together(
		func() (err error) { s.Etcd, err = h.StartEtcd(ctx, ClusterOptions{Path: etcd}); return err },
		func() (err error) { s.NATS, err = h.StartNATS(ctx, ClusterOptions{Path: nats}); return err },
	)
}

// Use makes a component keep its data on the servers, where a file was before. A busy machine has the time that it takes:
// the sidecar itself would give Init five seconds.
func (s *Servers) Use(c *Component) {
	metadata := []string{"engine", "nats", "url", s.NATS.URL(), "requestTimeout", "1m"}
	if strings.HasPrefix(c.Spec.Type, "state.") {
		metadata = s.Etcd.Metadata()
	}
	for pair := range slices.Chunk(metadata, 2) {
		c.Set(pair[0], pair[1])
	}
	c.Spec.InitTimeout = "1m"
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
	*node
	// Endpoint is its URL for clients.
	Endpoint string
	// Metrics is where it serves metrics and health, to anybody.
	Metrics string
	// Dir holds its data.
	Dir string
}

// StartEtcd starts the servers and waits until each of them serves, which takes a leader. Args default to EtcdSettings.
func (h *Harness) StartEtcd(ctx context.Context, opts ClusterOptions) (*Etcd, error) {
	if opts.Args == nil {
		opts.Args = EtcdSettings
	}
	members, err := h.members(ctx, "etcd", &opts)
	if err != nil {
		return nil, err
	}
	var cluster []string
	for _, m := range members {
		cluster = append(cluster, m.name+"="+opts.scheme()+m.peer)
	}
	var e Etcd
	for _, on := range members {
		m := &EtcdMember{node: on.node, Endpoint: opts.scheme() + on.client, Metrics: "http://" + on.monitor, Dir: h.Dir(on.name)}
		var tls []string
		if opts.Certificates != "" {
			for flag, file := range map[string]string{"trusted-ca": "ca.crt", "cert": "tls.crt", "key": "tls.key"} {
				path := opts.certificate(file)
				tls = append(tls, "--"+flag+"-file="+path, "--peer-"+flag+"-file="+path)
			}
		}
		m.Process, err = h.start(kindServer, on.place(spec{
			Name: on.name,
			Path: opts.Path,
			Args: append([]string{
				"--name=" + on.name,
				"--data-dir=" + m.Dir,
				"--listen-client-urls=" + m.Endpoint, "--advertise-client-urls=" + m.Endpoint,
				"--listen-peer-urls=" + opts.scheme() + on.peer, "--initial-advertise-peer-urls=" + opts.scheme() + on.peer,
				"--initial-cluster=" + strings.Join(cluster, ","),
				"--listen-metrics-urls=" + m.Metrics,
				"--log-level=warn",
			}, append(tls, opts.Args...)...),
			Ready: answers(m.Metrics + "/health"),
			Quiet: true,
		}))
		if err != nil {
			return nil, err
		}
		e.Servers = append(e.Servers, m)
	}
	return &e, e.WaitReady(ctx)
}

// WaitReady waits until every server serves.
func (e *Etcd) WaitReady(ctx context.Context) error { return waitAll(ctx, e.Servers) }

// Endpoints are the servers' URLs for clients, with commas between them, as a component's metadata has them.
func (e *Etcd) Endpoints() string {
	return joined(e.Servers, func(m *EtcdMember) string { return m.Endpoint })
}

// Metadata is that of a store on the cluster, and more, in pairs of key and value, with times that a busy machine keeps.
func (e *Etcd) Metadata(more ...string) []string {
	return append([]string{"engine", "etcd", "endpoints", e.Endpoints(), "dialTimeout", "1m", "requestTimeout", "1m"}, more...)
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
	*node
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
	members, err := h.members(ctx, "nats", &opts)
	if err != nil {
		return nil, err
	}
	var routes []string
	for _, m := range members {
		routes = append(routes, "nats://"+m.peer)
	}
	var all NATS
	for _, on := range members {
		m := &NATSMember{node: on.node, URL: "nats://" + on.client, Monitor: "http://" + on.monitor, Dir: h.Dir(on.name)}
		cluster := ""
		if len(members) > 1 {
			cluster = fmt.Sprintf("cluster { name: dapr-bolt, listen: %s, routes: [%s] }\n", on.peer, strings.Join(routes, ", "))
		}
		config := h.Dir(on.name + ".conf")
		text := fmt.Sprintf(natsSettings, on.name, on.client, on.monitor, m.Dir, cluster+opts.Config)
		if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
			return nil, err
		}
		m.Process, err = h.start(kindServer, on.place(spec{
			Name:  on.name,
			Path:  opts.Path,
			Args:  append([]string{"--config", config}, opts.Args...),
			Ready: answers(m.Monitor + "/healthz"),
			Quiet: true,
		}))
		if err != nil {
			return nil, err
		}
		all.Servers = append(all.Servers, m)
	}
	return &all, all.WaitReady(ctx)
}

// WaitReady waits until every server serves and has its streams.
func (n *NATS) WaitReady(ctx context.Context) error { return waitAll(ctx, n.Servers) }

// URL is that of all servers, as a component's metadata has it.
func (n *NATS) URL() string {
	return joined(n.Servers, func(m *NATSMember) string { return m.URL })
}

func joined[M any](all []M, of func(M) string) string {
	var texts []string
	for _, m := range all {
		texts = append(texts, of(m))
	}
	return strings.Join(texts, ",")
}

// Metadata is that of a pub/sub on the servers, and more, in pairs of key and value, with a time that a busy machine keeps.
func (n *NATS) Metadata(more ...string) []string {
	return append([]string{
		"engine", "nats", "url", n.URL(), "replicas", strconv.Itoa(len(n.Servers)), "requestTimeout", "1m",
	}, more...)
}

// Leader returns the server that leads JetStream's metadata now.
func (n *NATS) Leader(ctx context.Context) (*NATSMember, error) { return n.StreamLeader(ctx, "") }

// StreamLeader returns the server that leads a stream now.
func (n *NATS) StreamLeader(ctx context.Context, stream string) (*NATSMember, error) {
	for _, m := range n.Servers {
		if m.Leads(ctx, stream) {
			return m, nil
		}
	}
	return nil, fmt.Errorf("no server says that it leads %q", stream)
}

// Leads reports whether the server says that it leads a stream, which is that of `prefix=database=bucket`, or, if that is
// empty, JetStream's metadata.
func (m *NATSMember) Leads(ctx context.Context, stream string) bool {
	type cluster struct{ Leader string }
	var info struct {
		Meta     cluster `json:"meta_cluster"`
		Accounts []struct {
			Streams []struct {
				Name    string
				Cluster cluster
			} `json:"stream_detail"`
		} `json:"account_details"`
	}
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	response, err := Call(ctx, http.MethodGet, m.Monitor+"/jsz?streams=true", nil)
	if err != nil || response.JSON(&info) != nil {
		return false
	}
	if stream == "" {
		return info.Meta.Leader == m.Name()
	}
	for _, account := range info.Accounts {
		for _, s := range account.Streams {
			if s.Name == stream {
				return s.Cluster.Leader == m.Name()
			}
		}
	}
	return false
}

// member is a server of a cluster that is to be: its name, and its addresses for clients, for the other servers and for who
// watches it.
type member struct {
	*node
	name, client, peer, monitor string
}

func (h *Harness) members(ctx context.Context, of string, opts *ClusterOptions) ([]member, error) {
	var all []member
	for i := range cmp.Or(opts.Servers, clusterSize) {
		on, err := opts.node(ctx)
		if err != nil {
			return nil, err
		}
		m := member{node: on, name: fmt.Sprintf("%s-%d", of, i)}
		for _, address := range []*string{&m.client, &m.peer, &m.monitor} {
			port, err := h.FreePort()
			if err != nil {
				return nil, err
			}
			*address = net.JoinHostPort(on.host, strconv.Itoa(port))
		}
		all = append(all, m)
	}
	return all, nil
}
