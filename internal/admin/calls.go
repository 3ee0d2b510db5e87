package admin

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"

	"github.com/dapr-bolt/dapr-bolt/pubsub"
	"github.com/dapr-bolt/dapr-bolt/statestore"
)

// Call is one thing that people can ask of a process: of its Service, as the console does, or through its admin socket, which
// takes a POST of a JSON object, perhaps an empty one, to the path.
type Call[Request, Answer any] struct {
	path string
	do   func(s *Service, ctx context.Context, request Request) (Answer, error)
}

// Do makes the call of this process.
func (k Call[Request, Answer]) Do(ctx context.Context, s *Service, request Request) (Answer, error) {
	return k.do(s, ctx, request)
}

// Ask makes the call of the process behind the client's socket. It returns *Error for what the process refused, and
// *NotRunningError when there is no process.
func (k Call[Request, Answer]) Ask(ctx context.Context, c *Client, request Request) (answer Answer, err error) {
	body, err := c.post(ctx, k.path, request)
	if err != nil {
		return answer, err
	}
	defer func() { err = errors.Join(err, body.Close()) }()
	if err := json.NewDecoder(body).Decode(&answer); err != nil {
		return answer, fmt.Errorf("answer of the process on %s: %w", c.socket, err)
	}
	return answer, nil
}

// Empty is the request of a call without fields, and the answer of one that has none to give.
type Empty struct{}

// The calls of the admin socket.
var (
	CallInfo         = call("/v1/info", (*Service).info)
	CallReady        = call("/v1/ready", (*Service).ready)
	CallBuckets      = call("/v1/buckets", (*Service).buckets)
	CallRemoveBucket = call("/v1/buckets/remove", (*Service).removeBucket)
	CallBackup       = call("/v1/backup", (*Service).backup)
	CallOverview     = call("/v1/overview", (*Service).overview)

	CallTopics      = call("/v1/topics", (*Service).topics)
	CallTopic       = callEvents("/v1/topics/show", (*Service).topic)
	CallRemoveTopic = callEvents("/v1/topics/remove", (*Service).removeTopic)
	CallRemoveGroup = callEvents("/v1/topics/remove-group", (*Service).removeGroup)
	CallEvents      = callEvents("/v1/topics/events", (*Service).events)
	CallPublish     = callEvents("/v1/publish", (*Service).publish)
	CallEvent       = callEvents("/v1/events/show", (*Service).event)
	CallRetries     = callEvents("/v1/retries/list", (*Service).retries)
	CallRetryNow    = callEvents("/v1/retries/now", (*Service).retryNow)
	CallRetrySkip   = callEvents("/v1/retries/skip", (*Service).retrySkip)

	CallDeadLetters      = callEvents("/v1/dead-letters/list", (*Service).deadLetters)
	CallDeadLetter       = callEvents("/v1/dead-letters/show", (*Service).deadLetter)
	CallRedrive          = callEvents("/v1/dead-letters/redrive", (*Service).redrive)
	CallPurge            = callEvents("/v1/dead-letters/purge", (*Service).purge)
	CallDeadLetterGroups = callEvents("/v1/dead-letters/groups", (*Service).deadLetterGroups)
	CallJobs             = call("/v1/jobs", (*Service).listJobs)
	CallCancelJob        = call("/v1/jobs/cancel", (*Service).cancelJob)

	CallStateBucket     = callState("/v1/state/bucket", (*Service).stateBucket)
	CallApps            = callState("/v1/state/apps", (*Service).apps)
	CallKeys            = callState("/v1/state/keys", (*Service).keys)
	CallValue           = callState("/v1/state/get", (*Service).value)
	CallSetValue        = callState("/v1/state/set", (*Service).setValue)
	CallDeleteValue     = callState("/v1/state/delete", (*Service).deleteValue)
	CallIdempotencyKeys = callState("/v1/state/idempotency-keys", (*Service).idempotencyKeys)
	CallQuery           = callState("/v1/state/query", (*Service).query)
)

// pathWatch is answered with a JSON object for each event, until the client leaves.
const pathWatch = "/v1/topics/watch"

// routes are what answers at the paths of all calls but Watch.
var routes = map[string]func(s *Service, r *http.Request) (any, error){}

func call[R, A any](path string, do func(*Service, context.Context, R) (A, error)) Call[R, A] {
	routes[path] = func(s *Service, r *http.Request) (any, error) {
		var request R
		if err := decode(r, &request); err != nil {
			return nil, err
		}
		return do(s, r.Context(), request)
	}
	return Call[R, A]{path, do}
}

// inBucket is a request about a bucket.
type inBucket[R any] interface {
	*R
	bucket() *Bucket
}

// callEvents makes a call about a bucket of events, which is there, and whose defaults are filled in.
func callEvents[R, A any, P inBucket[R]](path string, do func(*Service, context.Context, pubsub.Service, R) (A, error)) Call[R, A] {
	return call(path, func(s *Service, ctx context.Context, request R) (answer A, err error) {
		bucket := P(&request).bucket()
		*bucket = bucket.WithDefaults()
		broker, err := s.broker(ctx, *bucket)
		if err != nil {
			return answer, err
		}
		return do(s, ctx, broker, request)
	})
}

// callState is callEvents for a bucket of state.
func callState[R, A any, P inBucket[R]](path string, do func(*Service, context.Context, *statestore.Store, R) (A, error)) Call[R, A] {
	return call(path, func(s *Service, ctx context.Context, request R) (answer A, err error) {
		bucket := P(&request).bucket()
		*bucket = bucket.StateDefaults()
		store, err := s.opts.Databases.ExistingStore(ctx, bucket.Database, bucket.Name)
		if err != nil {
			return answer, err
		}
		return do(s, ctx, store, request)
	})
}

// Calls returns the paths of all calls.
func Calls() []string {
	paths := []string{pathWatch}
	for path := range routes {
		paths = append(paths, path)
	}
	return paths
}
