package servers

import "fmt"

// What a component, a command or a query works on when it names nothing else.
const (
	DefaultDatabase     = "dapr"
	DefaultStateBucket  = "state"
	DefaultPubSubBucket = "pubsub"
)

// Place is where a component keeps its data.
type Place struct {
	Database, Bucket string
	// Etcd or NATS are the servers; without either, it is a file.
	Etcd *Access
	NATS *NATS
}

// Label is what people call the place's database.
func (p Place) Label() string {
	switch {
	case p.Etcd != nil:
		return Label("etcd", p.Etcd.Prefix, p.Database)
	case p.NATS != nil:
		return Label("nats", p.NATS.Prefix, p.Database)
	}
	return p.Database
}

// String names the place for people, without what is secret.
func (p Place) String() string {
	switch {
	case p.Etcd != nil:
		return fmt.Sprintf("bucket %s of database %s, prefix %s, on etcd %s", p.Bucket, p.Database, p.Etcd.Prefix, p.Etcd.Endpoints)
	case p.NATS != nil:
		return fmt.Sprintf("bucket %s of database %s, prefix %s, on nats %s", p.Bucket, p.Database, p.NATS.Prefix, p.NATS.Endpoints)
	}
	return fmt.Sprintf("bucket %s of database %s", p.Bucket, p.Database)
}
