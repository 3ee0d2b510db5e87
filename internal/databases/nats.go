package databases

import (
	"cmp"
	"context"
	"slices"

	"github.com/dapr-bolt/dapr-bolt/internal/servers"
	"github.com/dapr-bolt/dapr-bolt/pubsub"
	"github.com/dapr-bolt/dapr-bolt/pubsub/natsbroker"
)

// natsNamespace names a bucket of a database that is on nats-servers.
type natsNamespace struct {
	at servers.NATS
	namespace
}

// label is what people call the database.
func (ns natsNamespace) label() string { return servers.Label("nats", ns.at.Prefix, ns.database) }

// minPayload is what a message on the servers may have: the largest event, and the longest history of failures beside.
const minPayload = 6 << 20

// BrokerAt is Broker for topics in a file or on nats-servers.
func (m *Manager) BrokerAt(ctx context.Context, p servers.Place) (pubsub.Service, error) {
	if p.NATS == nil {
		return m.Broker(ctx, p.Database, p.Bucket)
	}
	ns := natsNamespace{*p.NATS, namespace{p.Database, p.Bucket}}
	if err := ns.check(); err != nil {
		return nil, err
	}
	b, err := m.natsBrokers.get(ctx, ns)
	if err != nil {
		return nil, err
	}
	return b, nil
}

func (m *Manager) openNATSBroker(ctx context.Context, ns natsNamespace) (*natsbroker.Broker, error) {
	opts, err := m.natsOptions(ns)
	if err != nil {
		return nil, err
	}
	return natsbroker.Open(ctx, opts)
}

func (m *Manager) natsOptions(ns natsNamespace) (opts natsbroker.Options, err error) {
	tls, err := ns.at.EachTLS()
	if err != nil {
		return opts, err
	}
	credentials, credentialsFile, err := ns.at.CredentialsIn()
	if err != nil {
		return opts, err
	}
	return natsbroker.Options{
		URL:         ns.at.Endpoints,
		Username:    ns.at.Username,
		Password:    ns.at.Password,
		Token:       ns.at.Token,
		Credentials: credentials, CredentialsFile: credentialsFile,
		TLS:        tls,
		Prefix:     ns.at.Prefix,
		Bucket:     ns.database + "=" + ns.bucket,
		Replicas:   ns.at.Replicas,
		Timeout:    ns.at.RequestTimeout,
		MinPayload: minPayload,
		Clock:      m.opts.Clock,
		Logger:     m.logger(ns.namespace),
		Budget:     m.budget,
		Totals:     &m.opts.Metrics.Totals,
		Timings:    m.opts.Metrics.Timings(ns.label(), ns.bucket),
		NameLimits: m.opts.Names,
	}, nil
}

// openNATSBrokers lists those that sidecars use.
func (m *Manager) openNATSBrokers() (list []OpenBroker) {
	for ns, b := range m.natsBrokers.made() {
		list = append(list, OpenBroker{Database: ns.label(), Bucket: ns.bucket, Broker: b, servers: ns.at.Endpoints})
	}
	slices.SortFunc(list, func(a, b OpenBroker) int {
		return cmp.Or(cmp.Compare(a.Database, b.Database), cmp.Compare(a.Bucket, b.Bucket), cmp.Compare(a.servers, b.servers))
	})
	return list
}
