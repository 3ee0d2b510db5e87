package component

import (
	"fmt"
	"net/url"
	"regexp"
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

// nameAllowed is what a Backend takes as a name; the Backend is the one that checks it.
const nameAllowed = "letters, digits, - and _"

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

var stateFields = []field[stateConfig]{
	{
		Field{"database", servers.DefaultDatabase, nameAllowed, "the file `<data-dir>/<database>.db`"},
		func(c *stateConfig, v string) bool { c.Database = v; return true },
	},
	{
		Field{"bucket", servers.DefaultStateBucket, nameAllowed, "the bucket in that file: components with the same database and bucket share their data"},
		func(c *stateConfig, v string) bool { c.Bucket = v; return true },
	},
	{
		Field{
			"cleanupInterval", shortDuration(statestore.DefaultCleanupInterval),
			fmt.Sprintf("a duration of at least %s", statestore.MinCleanupInterval),
			"how often expired keys are removed from the file; of several components on one bucket, the shortest holds",
		},
		func(c *stateConfig, v string) bool {
			d, ok := parseDuration(v)
			if ok = ok && d >= statestore.MinCleanupInterval; ok {
				c.CleanupInterval = d
			}
			return ok
		},
	},
	{
		Field{
			"idempotencyWindow", shortDuration(statestore.DefaultIdempotencyWindow),
			fmt.Sprintf("a duration above 0, up to %d seconds", statestore.MaxTTL/time.Second),
			"how long an `idempotencyKey` is remembered",
		},
		func(c *stateConfig, v string) bool {
			d, ok := parseDuration(v)
			if ok = ok && d > 0 && d <= statestore.MaxTTL; ok {
				c.IdempotencyWindow = d
			}
			return ok
		},
	},
	{
		Field{
			"queryIndexes", "",
			fmt.Sprintf("field paths such as `person.city`, with commas between them; at most %d on one bucket", statestore.MaxQueryIndexes),
			"fields on which queries use an index",
		},
		func(c *stateConfig, v string) bool {
			c.QueryIndexes = strings.Split(v, ",")
			for i, path := range c.QueryIndexes {
				c.QueryIndexes[i] = strings.TrimSpace(path)
				if _, err := statestore.ParseFieldPath(c.QueryIndexes[i]); err != nil {
					return false
				}
			}
			// What begins with a bracket is the JSON that Dapr's state.redis has under this key.
			return len(c.QueryIndexes) <= statestore.MaxQueryIndexes && !strings.HasPrefix(c.QueryIndexes[0], "[")
		},
	},
	{
		Field{"engine", engineBolt, engineBolt + " or " + engineEtcd, "`bolt`: the data is in the file; `etcd`: in an etcd cluster, for [many nodes](cluster.md), with the keys below"},
		func(c *stateConfig, v string) bool { c.Engine = v; return v == engineBolt || v == engineEtcd },
	},
	{
		Field{"endpoints", "", "URLs such as https://etcd-0:2379, with commas between them", "the etcd servers"},
		func(c *stateConfig, v string) bool { c.Servers.Endpoints = v; return validEndpoints(&c.Servers) },
	},
	{
		Field{"username", "", "text", "who to be for etcd, if it authenticates its clients"},
		func(c *stateConfig, v string) bool { c.Servers.Username = v; return true },
	},
	{
		Field{"password", "", "text", "the password of `username`"},
		func(c *stateConfig, v string) bool { c.Servers.Password = v; return true },
	},
	{
		Field{"caCert", "", "a file's path, or the PEM itself", "whose certificates the servers must have"},
		func(c *stateConfig, v string) bool { c.Servers.CACert = v; return true },
	},
	{
		Field{"clientCert", "", "a file's path, or the PEM itself", "the certificate to show to the servers"},
		func(c *stateConfig, v string) bool { c.Servers.ClientCert = v; return true },
	},
	{
		Field{"clientKey", "", "a file's path, or the PEM itself", "the key of `clientCert`"},
		func(c *stateConfig, v string) bool { c.Servers.ClientKey = v; return true },
	},
	{
		Field{"prefix", servers.DefaultPrefix, nameAllowed, "begins all keys in etcd: installations with different ones share a cluster and no data"},
		func(c *stateConfig, v string) bool { c.Servers.Prefix = v; return validPrefix.MatchString(v) },
	},
	{
		Field{"dialTimeout", shortDuration(servers.DefaultDialTimeout), "a duration above 0", "how long connecting to the servers may take at `Init`"},
		func(c *stateConfig, v string) bool { return parseTimeout(&c.Servers.DialTimeout, v) },
	},
	{
		Field{"requestTimeout", shortDuration(servers.DefaultRequestTimeout), "a duration above 0", "how long each request to the servers may take; when the cluster is lost, calls fail after it"},
		func(c *stateConfig, v string) bool { return parseTimeout(&c.Servers.RequestTimeout, v) },
	},
}

// Engines of a state store.
const (
	engineBolt = "bolt"
	engineEtcd = "etcd"
)

// noServers are the settings of an engine that has none.
var noServers = defaults(stateFields).Servers

var validPrefix = regexp.MustCompile(`^[A-Za-z0-9_-]{1,64}$`)

func validEndpoints(a *servers.Access) bool {
	for _, endpoint := range a.List() {
		u, err := url.Parse(endpoint)
		if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
			return false
		}
	}
	return len(a.List()) > 0
}

func parseTimeout(to *time.Duration, value string) bool {
	d, ok := parseDuration(value)
	*to = d
	return ok && d > 0
}

func parseStateConfig(given map[string]string) (stateConfig, error) {
	p, err := parseProperties(given)
	if err != nil {
		return stateConfig{}, err
	}
	c := defaults(stateFields)
	return c, override(&c, stateFields, p)
}

// place returns where the data is. It refuses settings that the engine cannot keep.
func (c *stateConfig) place() (servers.Place, error) {
	p := servers.Place{Database: c.Database, Bucket: c.Bucket}
	switch {
	case c.Engine == engineBolt && c.Servers != noServers:
		return p, invalid.New("engine", c.Engine, engineEtcd+", since settings for its servers are given (endpoints and those below it in the reference)")
	case c.Engine == engineEtcd && c.Servers.Endpoints == "":
		return p, invalid.New("endpoints", "", "the URLs of the servers of engine "+engineEtcd+", with commas between them")
	case c.Engine == engineEtcd:
		p.Etcd = &c.Servers
	}
	return p, nil
}
