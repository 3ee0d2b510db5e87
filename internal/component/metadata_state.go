package component

import (
	"fmt"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/dapr-bolt/dapr-bolt/internal/invalid"
	"github.com/dapr-bolt/dapr-bolt/internal/servers"
	"github.com/dapr-bolt/dapr-bolt/statestore"
)

// Keys of a request's metadata to the state store.
const (
	keyTTLInSeconds   = "ttlInSeconds"
	keyContentType    = "contentType"
	keyIdempotencyKey = "idempotencyKey"
)

type stateConfig struct {
	Database, Bucket  string
	CleanupInterval   time.Duration
	IdempotencyWindow time.Duration
	QueryIndexes      []string
	Engine            string
	Servers           servers.Access
}

// StateMetadata lists the metadata keys of the state store.
func StateMetadata() []Field { return fieldsOf(stateFields) }

var stateFields = slices.Concat([]field[stateConfig]{
	newField("database", servers.DefaultDatabase, kindName, func(c *stateConfig) *string { return &c.Database },
		"the file `<data-dir>/<database>.db`"),
	newField("bucket", servers.DefaultStateBucket, kindName, func(c *stateConfig) *string { return &c.Bucket },
		"the bucket in that file: components with the same database and bucket share their data"),
	newField("cleanupInterval", "1m", kind[time.Duration]{
		fmt.Sprintf("a duration of at least %s", statestore.MinCleanupInterval),
		durations(statestore.MinCleanupInterval, math.MaxInt64),
	}, func(c *stateConfig) *time.Duration { return &c.CleanupInterval },
		"how often expired keys are removed from the file; of several components on one bucket, the shortest holds"),
	newField("idempotencyWindow", "24h", kind[time.Duration]{
		fmt.Sprintf("a duration above 0, up to %d seconds", statestore.MaxTTL/time.Second),
		durations(1, statestore.MaxTTL),
	}, func(c *stateConfig) *time.Duration { return &c.IdempotencyWindow },
		"how long an `idempotencyKey` is remembered"),
	newField("queryIndexes", "", kind[[]string]{
		fmt.Sprintf("field paths such as `person.city`, with commas between them; at most %d on one bucket", statestore.MaxQueryIndexes),
		parseFieldPaths,
	}, func(c *stateConfig) *[]string { return &c.QueryIndexes },
		"fields on which queries use an index"),
	newField("engine", engineBolt, oneOf(engineBolt, engineEtcd), func(c *stateConfig) *string { return &c.Engine },
		"`bolt`: the data is in the file; `etcd`: in an etcd cluster, for [many nodes](cluster.md), with the keys below"),
}, etcdFields)

// etcdFields are the keys of engineEtcd. They have no effect on another engine.
var etcdFields = []field[stateConfig]{
	newField("endpoints", "", urls("https://etcd-0:2379", "http", "https"), func(c *stateConfig) *string { return &c.Servers.Endpoints },
		"the etcd servers"),
	newField("username", "", kindText, func(c *stateConfig) *string { return &c.Servers.Username },
		"who to be for etcd, if it authenticates its clients"),
	newField("password", "", kindText, func(c *stateConfig) *string { return &c.Servers.Password },
		"the password of `username`"),
	newField("caCert", "", kindPEM, func(c *stateConfig) *string { return &c.Servers.CACert },
		"whose certificates the servers must have"),
	newField("clientCert", "", kindPEM, func(c *stateConfig) *string { return &c.Servers.ClientCert },
		"the certificate to show to the servers"),
	newField("clientKey", "", kindPEM, func(c *stateConfig) *string { return &c.Servers.ClientKey },
		"the key of `clientCert`"),
	newField("prefix", servers.DefaultPrefix, kindPrefix, func(c *stateConfig) *string { return &c.Servers.Prefix },
		"begins all keys in etcd: installations with different ones share a cluster and no data"),
	newField("dialTimeout", "5s", kindTimeout, func(c *stateConfig) *time.Duration { return &c.Servers.DialTimeout },
		"how long connecting to the servers may take at `Init`"),
	newField("requestTimeout", "5s", kindTimeout, func(c *stateConfig) *time.Duration { return &c.Servers.RequestTimeout },
		"how long each request to the servers may take; when the cluster is lost, calls fail after it"),
}

var kindTimeout = kind[time.Duration]{"a duration above 0", durations(1, math.MaxInt64)}

func parseFieldPaths(value string) ([]string, bool) {
	// What begins with a bracket is the JSON that Dapr's state.redis has under this key.
	ok := !strings.HasPrefix(value, "[")
	paths := strings.Split(value, ",")
	for i, path := range paths {
		paths[i] = strings.TrimSpace(path)
		_, err := statestore.ParseFieldPath(paths[i])
		ok = ok && err == nil
	}
	return paths, ok && len(paths) <= statestore.MaxQueryIndexes
}

// Engines of a state store; engineBolt is a pub/sub's, too.
const (
	engineBolt = "bolt"
	engineEtcd = "etcd"
)

func parseStateConfig(given map[string]string) (stateConfig, error) {
	p, err := parseProperties(given)
	if err != nil {
		return stateConfig{}, err
	}
	c := defaults(stateFields)
	return c, override(&c, stateFields, p)
}

// place returns where the data is. It refuses what the engine that is asked for cannot keep.
func (c *stateConfig) place() (servers.Place, error) {
	p := servers.Place{Database: c.Database, Bucket: c.Bucket}
	switch {
	case c.Engine == engineBolt && c.Servers.Endpoints != "":
		return p, invalid.New("endpoints", c.Servers.Endpoints, "the servers of engine "+engineEtcd+", and none for engine "+engineBolt)
	case c.Engine == engineEtcd && c.Servers.Endpoints == "":
		return p, invalid.New("endpoints", "", "the URLs of the servers of engine "+engineEtcd+", with commas between them")
	case c.Engine == engineEtcd:
		p.Etcd = &c.Servers
	}
	return p, nil
}

// StatePlace returns where a state store with that metadata keeps its data.
func StatePlace(properties map[string]string) (servers.Place, error) {
	c, err := parseStateConfig(properties)
	if err != nil {
		return servers.Place{}, err
	}
	return c.place()
}
