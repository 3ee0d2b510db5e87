package component

import (
	"fmt"
	"reflect"
	"strings"
	"testing"
	"time"

	proto "github.com/dapr/dapr/pkg/proto/components/v1"
	"github.com/stretchr/testify/require"

	"github.com/dapr-bolt/dapr-bolt/internal/servers"
	"github.com/dapr-bolt/dapr-bolt/pubsub"
	"github.com/dapr-bolt/dapr-bolt/statestore"
)

func TestStateMetadata(t *testing.T) {
	base, err := parseStateConfig(nil)
	require.NoError(t, err)
	require.Equal(t, stateConfig{
		Database: "dapr", Bucket: "state", CleanupInterval: statestore.DefaultCleanupInterval, IdempotencyWindow: statestore.DefaultIdempotencyWindow,
		Engine: "bolt", Servers: servers.Access{Prefix: "dapr-bolt", DialTimeout: servers.DefaultDialTimeout, RequestTimeout: servers.DefaultRequestTimeout},
	}, base)
	requireFields(t, StateMetadata(), map[string]string{
		"database": "other", "bucket": "b", "cleanupInterval": "5s", "idempotencyWindow": "90", "queryIndexes": "a.b, c",
		"engine": "etcd", "endpoints": "https://a:1, http://b:2", "username": "u", "password": "p", "caCert": "ca.pem", "clientCert": "c.pem",
		"clientKey": "k.pem", "prefix": "other", "dialTimeout": "1s", "requestTimeout": "90",
	}, func(md map[string]string) (any, error) { return parseStateConfig(md) })
	c, err := parseStateConfig(map[string]string{"IDEMPOTENCYWINDOW": " 90 ", "bucket": ""})
	require.NoError(t, err)
	require.Equal(t, 90*time.Second, c.IdempotencyWindow)
	require.Equal(t, "state", c.Bucket)
}

func TestPubSubMetadata(t *testing.T) {
	base, err := parsePubSubConfig(nil)
	require.NoError(t, err)
	require.Equal(t, pubsubConfig{
		Publisher: publisherConfig{Database: "dapr", Bucket: "pubsub", Publish: pubsub.PublishOptions{
			DedupWindow: 10 * time.Minute, Limits: pubsub.TopicLimits{MaxAge: 168 * time.Hour},
		}, Engine: "bolt", Servers: defaults(natsFields).Servers},
		Consumer: pubsub.SubscribeOptions{
			MaxDeliver: 10, BackOff: pubsub.BackOff{time.Second, 5 * time.Second, 30 * time.Second, 2 * time.Minute},
			AckWait: time.Minute, MaxAckPending: 64, DeliverPolicy: pubsub.DeliverAll,
		},
	}, base)
	requireFields(t, PubSubMetadata(), map[string]string{
		"database": "other", "bucket": "b", "dedupBy": "fields:type,data.id", "dedupWindow": "0", "maxAge": "1h", "maxBytes": "2Gi",
		"consumerID": "app", "maxDeliver": "0", "backOff": "1s, 2", "ackWait": "5s", "maxAckPending": "1", "ordered": "yes",
		"deliverPolicy": "NEW", "deadLetterExpired": "true",
		"engine": "nats", "url": "nats://a:4222,tls://b:4222", "username": "me", "password": "p", "token": "t", "credentials": "/c",
		"caCert": "/ca", "clientCert": "/cert", "clientKey": "/key", "prefix": "other", "replicas": "5", "requestTimeout": "1s",
	}, func(md map[string]string) (any, error) { return parsePubSubConfig(md) })
	c, err := parsePubSubConfig(map[string]string{"maxBytes": "2Gi", "backOff": "1s, 2"})
	require.NoError(t, err)
	require.EqualValues(t, 2<<30, c.Publisher.Publish.Limits.MaxBytes)
	require.Equal(t, pubsub.BackOff{time.Second, 2 * time.Second}, c.Consumer.BackOff)
}

// What engine nats cannot keep is refused, with the reason.
func TestWhatNATSCannotKeepIsRefused(t *testing.T) {
	h := newHouse(t)
	for _, c := range []struct{ key, value, why string }{
		{"engine", "redis", "bolt or nats"},
		{"engine", "nats", "url"},
		{"url", "nats://a:4222", "engine bolt"},
		{"url", "redis://a", "url"},
		{"replicas", "2", "1, 3 or 5"},
		{"prefix", "a.b", "prefix"},
	} {
		_, err := h.dial("a").pubsub.Init(t.Context(), &proto.PubSubInitRequest{Metadata: &proto.MetadataRequest{Properties: map[string]string{c.key: c.value}}})
		requireInvalid(t, err, c.why)
	}
	_, err := h.dial("a").pubsub.Init(t.Context(), &proto.PubSubInitRequest{Metadata: &proto.MetadataRequest{Properties: map[string]string{
		"engine": "nats", "url": "nats://127.0.0.1:1"}}})
	require.ErrorContains(t, err, "nats://127.0.0.1:1")
}

// requireFields checks that each field is documented, has the default that it says, and takes effect, whatever its case.
func requireFields(t *testing.T, fields []Field, other map[string]string, parse func(map[string]string) (any, error)) {
	base, err := parse(nil)
	require.NoError(t, err)
	require.Len(t, other, len(fields))
	for _, f := range fields {
		require.NotEmpty(t, f.Meaning, f.Name)
		require.NotEmpty(t, f.Allowed, f.Name)
		same, err := parse(map[string]string{f.Name: f.Default})
		require.NoError(t, err, f.Name)
		require.Equal(t, base, same, f.Name)
		changed, err := parse(map[string]string{strings.ToUpper(f.Name): other[f.Name]})
		require.NoError(t, err, f.Name)
		require.False(t, reflect.DeepEqual(base, changed), f.Name)
	}
}

func TestBadMetadataIsRefusedAtInit(t *testing.T) {
	h := newHouse(t)
	for key, values := range map[string][]string{
		"database":          {"../x", "/tmp/x", "a b", strings.Repeat("x", 1000)},
		"bucket":            {"../x", "a/b"},
		"engine":            {"redis", "etcd"},
		"endpoints":         {"etcd:2379", "ftp://etcd", "http://etcd:2379"},
		"prefix":            {"a/b", strings.Repeat("x", 1000)},
		"requestTimeout":    {"soon", "0"},
		"cleanupInterval":   {"soon", "0", "-1m", "1ms"},
		"idempotencyWindow": {"soon", "0", "-1s", "9999999999s", "9223372036854775807"},
		"dedupBy":           {"magic", "fields:", "fields:a,,b"},
		"dedupWindow":       {"soon", "-1s"},
		"maxAge":            {"old", "-1h"},
		"maxBytes":          {"much", "-1", "1.5", "1e30"},
		"maxDeliver":        {"-1", "many", "1.5", "99999999999"},
		"backOff":           {"1s,soon", "1s,,2s", "-1s", "1s;2s", strings.Repeat("1s,", maxBackOffSteps) + "1s"},
		"ackWait":           {"-1s", "long"},
		"maxAckPending":     {"0", "-1", "10001", "x"},
		"ordered":           {"maybe", "2"},
		"deliverPolicy":     {"last"},
		"deadLetterExpired": {"perhaps"},
	} {
		for _, value := range values {
			t.Run(fmt.Sprintf("%s=%.20s", key, value), func(t *testing.T) {
				c := h.dial("a")
				md := &proto.MetadataRequest{Properties: map[string]string{key: value}}
				var errs []error
				for _, f := range StateMetadata() {
					if f.Name == key {
						_, err := c.Init(c.ctx, &proto.InitRequest{Metadata: md})
						errs = append(errs, err)
					}
				}
				for _, f := range PubSubMetadata() {
					if f.Name == key {
						_, err := c.pubsub.Init(c.ctx, &proto.PubSubInitRequest{Metadata: md})
						errs = append(errs, err)
					}
				}
				require.NotEmpty(t, errs)
				for _, err := range errs {
					requireInvalid(t, err, key)
					require.ErrorContains(t, err, value[:min(3, len(value))])
					require.ErrorContains(t, err, "allowed")
				}
			})
		}
	}
	c := h.dial("a")
	_, err := c.Init(c.ctx, &proto.InitRequest{Metadata: &proto.MetadataRequest{Properties: map[string]string{"cleanupInterval": "soon", "prefix": "a/b"}}})
	requireInvalid(t, err, "cleanupInterval")
	requireInvalid(t, err, "prefix")
	_, err = c.pubsub.Init(c.ctx, &proto.PubSubInitRequest{Metadata: &proto.MetadataRequest{Properties: map[string]string{"requestTimeout": "0"}}})
	requireInvalid(t, err, "above 0")
	_, err = c.Init(c.ctx, &proto.InitRequest{Metadata: &proto.MetadataRequest{Properties: map[string]string{"bucket": "a", "Bucket": "b"}}})
	requireInvalid(t, err, "each key once")
	_, err = c.pubsub.Init(c.ctx, &proto.PubSubInitRequest{Metadata: &proto.MetadataRequest{Properties: map[string]string{"consumerId": "a", "consumerID": "b"}}})
	requireInvalid(t, err, "Dapr adds consumerID")
	_, err = c.Init(c.ctx, &proto.InitRequest{Metadata: &proto.MetadataRequest{Properties: map[string]string{"x": strings.Repeat("x", maxInitMetadata)}}})
	requireInvalid(t, err, "at most 65536 bytes")
	require.Error(t, c.set("k", "v"), "none of these has initialized the component")
}

func TestUnknownKeysAreWarnedAbout(t *testing.T) {
	h := newHouse(t)
	h.bus("a", "consumerID", "app", "dedupWindw", "1m", "resubscribe", "", "ttlInSeconds", "60", "redisHost", "localhost:6379", "scopes", "x", "publishingScopes", "x", "outboxPublishTopic", "x", "ACTORSTATESTORE", "true", "keyPrefix", "name", "resubscribed", "2026-01-02T03:04:05Z")
	log := h.log.String()
	require.Equal(t, 4, strings.Count(log, "unknown metadata key"), log)
	require.Contains(t, log, "key=dedupWindw nearest=dedupWindow\n")
	require.Contains(t, log, "key=resubscribe nearest=resubscribed\n")
	require.Contains(t, log, "key=ttlInSeconds\n", "other components have a default of that name")
	require.Contains(t, log, "key=redisHost\n", "what is another component's is like none of ours")

	// Files of other components have keys of these names. The file takes none of them, and says so.
	h.bus("b", "token", "t", "replicas", "1", "engine", "bolt")
	h.store("c", "username", "u", "Password", "p", "dialTimeout", "10s", "engine", "bolt")
	log = strings.TrimPrefix(h.log.String(), log)
	for component, keys := range map[string][]string{"b": {"token", "replicas"}, "c": {"username", "Password", "dialTimeout"}} {
		for _, key := range keys {
			require.Regexp(t, "it is for another engine.* component="+component+" key="+key+"\n", log)
		}
	}
	require.NotContains(t, log, "key=engine")
}

func TestEditDistance(t *testing.T) {
	for _, test := range []struct {
		a, b string
		want int
	}{{"", "", 0}, {"", "abc", 3}, {"abc", "", 3}, {"kitten", "sitting", 3}, {"abc", "abc", 0}, {"ab", "ba", 2}} {
		require.Equal(t, test.want, editDistance(test.a, test.b), test)
	}
}
