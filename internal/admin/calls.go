package admin

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
)

// Call is one thing that people can ask of the process. The console calls the Service's method; the admin socket answers a
// POST of a JSON object, perhaps an empty one, to the path, which Ask sends.
type Call[Request, Answer any] struct {
	path   string
	answer func(s *Service, ctx context.Context, request Request) (Answer, error)
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
	CallInfo    = Call[Empty, Info]{"/v1/info", func(s *Service, _ context.Context, _ Empty) (Info, error) { return s.Info() }}
	CallReady   = Call[Empty, Empty]{"/v1/ready", func(s *Service, ctx context.Context, _ Empty) (Empty, error) { return Empty{}, s.Ready(ctx) }}
	CallBuckets = Call[Empty, Buckets]{"/v1/buckets", func(s *Service, ctx context.Context, _ Empty) (Buckets, error) { return s.Buckets(ctx) }}
	CallBackup  = Call[BackupRequest, BackupResult]{"/v1/backup", (*Service).Backup}

	CallOverview = Call[Empty, Overview]{"/v1/overview", func(s *Service, ctx context.Context, _ Empty) (Overview, error) { return s.Overview(ctx) }}

	CallTopics      = Call[TopicsRequest, Topics]{"/v1/topics", (*Service).Topics}
	CallRemoveGroup = Call[GroupRequest, Empty]{"/v1/topics/remove-group", without((*Service).RemoveGroup)}
	CallTopic       = Call[TopicRequest, TopicDetail]{"/v1/topics/show", (*Service).Topic}
	CallRemoveTopic = Call[TopicRequest, Empty]{"/v1/topics/remove", without((*Service).RemoveTopic)}
	CallEvents      = Call[EventsRequest, EventPage]{"/v1/topics/events", (*Service).Events}
	CallPublish     = Call[PublishRequest, PublishResult]{"/v1/publish", (*Service).Publish}
	CallEvent       = Call[EventRequest, EventDetail]{"/v1/events/show", (*Service).Event}
	CallRetries     = Call[RetriesRequest, RetryPage]{"/v1/retries/list", (*Service).Retries}
	CallRetryNow    = Call[RetryRequest, Empty]{"/v1/retries/now", without((*Service).RetryNow)}
	CallRetrySkip   = Call[RetryRequest, Empty]{"/v1/retries/skip", without((*Service).RetrySkip)}

	CallDeadLetters = Call[ListOptions, DeadLetterPage]{"/v1/dead-letters/list", (*Service).DeadLetters}
	CallDeadLetter  = Call[IDRequest, DeadLetter]{"/v1/dead-letters/show", (*Service).DeadLetter}
	CallRedrive     = Call[IDsRequest, RedriveResult]{"/v1/dead-letters/redrive", (*Service).Redrive}
	CallPurge       = Call[IDsRequest, PurgeResult]{"/v1/dead-letters/purge", (*Service).Purge}

	CallDeadLetterGroups = Call[ListOptions, DeadLetterGroups]{"/v1/dead-letters/groups", (*Service).DeadLetterGroups}
	CallJobs             = Call[Empty, Jobs]{"/v1/jobs", func(s *Service, ctx context.Context, _ Empty) (Jobs, error) { return s.Jobs(ctx) }}
	CallCancelJob        = Call[JobRequestID, Job]{"/v1/jobs/cancel", (*Service).CancelJob}

	CallStateBucket     = Call[Bucket, StateInfo]{"/v1/state/bucket", (*Service).StateBucket}
	CallApps            = Call[PageRequest, Apps]{"/v1/state/apps", (*Service).Apps}
	CallKeys            = Call[KeysRequest, KeyPage]{"/v1/state/keys", (*Service).Keys}
	CallValue           = Call[KeyRequest, Value]{"/v1/state/get", (*Service).Value}
	CallSetValue        = Call[SetRequest, Key]{"/v1/state/set", (*Service).SetValue}
	CallDeleteValue     = Call[DeleteRequest, Empty]{"/v1/state/delete", without((*Service).DeleteValue)}
	CallIdempotencyKeys = Call[PageRequest, IdempotencyPage]{"/v1/state/idempotency-keys", (*Service).IdempotencyKeys}
	CallQuery           = Call[QueryRequest, QueryResult]{"/v1/state/query", (*Service).Query}
	CallRemoveBucket    = Call[RemoveBucketRequest, Empty]{"/v1/buckets/remove", without((*Service).RemoveBucket)}
)

// routes are all of them but Watch.
var routes = []route{
	CallInfo, CallReady, CallBuckets, CallBackup, CallOverview, CallRemoveBucket,
	CallTopics, CallTopic, CallRemoveTopic, CallRemoveGroup, CallEvents, CallPublish, CallEvent,
	CallRetries, CallRetryNow, CallRetrySkip,
	CallDeadLetters, CallDeadLetter, CallRedrive, CallPurge, CallDeadLetterGroups,
	CallJobs, CallCancelJob,
	CallStateBucket, CallApps, CallKeys, CallValue, CallSetValue, CallDeleteValue, CallIdempotencyKeys, CallQuery,
}

// Calls returns the paths of all calls.
func Calls() []string {
	paths := []string{pathWatch}
	for _, r := range routes {
		path, _ := r.serve(nil)
		paths = append(paths, path)
	}
	return paths
}

// pathWatch is answered with a JSON object for each event, until the client leaves.
const pathWatch = "/v1/topics/watch"

// routes registers all of them.
func (s *Server) routes() http.Handler {
	mux := http.NewServeMux()
	for _, r := range routes {
		path, answer := r.serve(s.opts.Service)
		mux.HandleFunc("POST "+path, s.handle(answer))
	}
	mux.HandleFunc("POST "+pathWatch, s.watch)
	mux.HandleFunc("/", s.handle(func(_ http.ResponseWriter, r *http.Request) (any, error) {
		return nil, refuse(http.StatusNotFound, "no such call: %s %s", r.Method, r.URL.Path)
	}))
	return mux
}

// route is a call of any type.
type route interface {
	serve(s *Service) (path string, answer func(http.ResponseWriter, *http.Request) (any, error))
}

func (c Call[Request, Answer]) serve(s *Service) (string, func(http.ResponseWriter, *http.Request) (any, error)) {
	return c.path, func(_ http.ResponseWriter, r *http.Request) (any, error) {
		var request Request
		if err := decode(r, &request); err != nil {
			return nil, err
		}
		return c.answer(s, r.Context(), request)
	}
}

// without makes a call of a method that has no answer but an error.
func without[Request any](method func(*Service, context.Context, Request) error) func(*Service, context.Context, Request) (Empty, error) {
	return func(s *Service, ctx context.Context, request Request) (Empty, error) {
		return Empty{}, method(s, ctx, request)
	}
}
