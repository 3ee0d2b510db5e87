package admin

import (
	"context"
	"net/http"
)

// call is one thing that people can ask of the process. The console calls the Service's method; the admin socket answers a
// POST of a JSON object, perhaps an empty one, to the path, and the Client sends it.
type call[Request, Answer any] struct {
	path   string
	answer func(s *Service, ctx context.Context, request Request) (Answer, error)
}

// empty is the request of a call without fields, and the answer of one that has none to give.
type empty struct{}

// The calls of the admin socket.
var (
	callInfo    = call[empty, Info]{"/v1/info", func(s *Service, _ context.Context, _ empty) (Info, error) { return s.Info() }}
	callReady   = call[empty, empty]{"/v1/ready", func(s *Service, ctx context.Context, _ empty) (empty, error) { return empty{}, s.Ready(ctx) }}
	callBuckets = call[empty, Buckets]{"/v1/buckets", func(s *Service, ctx context.Context, _ empty) (Buckets, error) { return s.Buckets(ctx) }}
	callBackup  = call[BackupRequest, BackupResult]{"/v1/backup", (*Service).Backup}

	callOverview = call[empty, Overview]{"/v1/overview", func(s *Service, ctx context.Context, _ empty) (Overview, error) { return s.Overview(ctx) }}

	callTopics      = call[TopicsRequest, Topics]{"/v1/topics", (*Service).Topics}
	callRemoveGroup = call[GroupRequest, empty]{"/v1/topics/remove-group", without((*Service).RemoveGroup)}
	callTopic       = call[TopicRequest, TopicDetail]{"/v1/topics/show", (*Service).Topic}
	callRemoveTopic = call[TopicRequest, empty]{"/v1/topics/remove", without((*Service).RemoveTopic)}
	callEvents      = call[EventsRequest, EventPage]{"/v1/topics/events", (*Service).Events}
	callPublish     = call[PublishRequest, PublishResult]{"/v1/publish", (*Service).Publish}
	callEvent       = call[EventRequest, EventDetail]{"/v1/events/show", (*Service).Event}
	callRetries     = call[RetriesRequest, RetryPage]{"/v1/retries/list", (*Service).Retries}
	callRetryNow    = call[RetryRequest, empty]{"/v1/retries/now", without((*Service).RetryNow)}
	callRetrySkip   = call[RetryRequest, empty]{"/v1/retries/skip", without((*Service).RetrySkip)}

	callDeadLetters = call[ListOptions, DeadLetterPage]{"/v1/dead-letters/list", (*Service).DeadLetters}
	callDeadLetter  = call[IDRequest, DeadLetter]{"/v1/dead-letters/show", (*Service).DeadLetter}
	callRedrive     = call[IDsRequest, RedriveResult]{"/v1/dead-letters/redrive", (*Service).Redrive}
	callPurge       = call[IDsRequest, PurgeResult]{"/v1/dead-letters/purge", (*Service).Purge}

	callDeadLetterGroups = call[ListOptions, DeadLetterGroups]{"/v1/dead-letters/groups", (*Service).DeadLetterGroups}
	callJobs             = call[empty, Jobs]{"/v1/jobs", func(s *Service, ctx context.Context, _ empty) (Jobs, error) { return s.Jobs(ctx) }}
	callCancelJob        = call[JobRequestID, Job]{"/v1/jobs/cancel", (*Service).CancelJob}

	callStateBucket     = call[Bucket, StateInfo]{"/v1/state/bucket", (*Service).StateBucket}
	callApps            = call[PageRequest, Apps]{"/v1/state/apps", (*Service).Apps}
	callKeys            = call[KeysRequest, KeyPage]{"/v1/state/keys", (*Service).Keys}
	callValue           = call[KeyRequest, Value]{"/v1/state/get", (*Service).Value}
	callSetValue        = call[SetRequest, Key]{"/v1/state/set", (*Service).SetValue}
	callDeleteValue     = call[DeleteRequest, empty]{"/v1/state/delete", without((*Service).DeleteValue)}
	callIdempotencyKeys = call[PageRequest, IdempotencyPage]{"/v1/state/idempotency-keys", (*Service).IdempotencyKeys}
	callQuery           = call[QueryRequest, QueryResult]{"/v1/state/query", (*Service).Query}
	callRemoveBucket    = call[RemoveBucketRequest, empty]{"/v1/buckets/remove", without((*Service).RemoveBucket)}
)

// routes are all of them but Watch.
var routes = []route{
	callInfo, callReady, callBuckets, callBackup, callOverview, callRemoveBucket,
	callTopics, callTopic, callRemoveTopic, callRemoveGroup, callEvents, callPublish, callEvent,
	callRetries, callRetryNow, callRetrySkip,
	callDeadLetters, callDeadLetter, callRedrive, callPurge, callDeadLetterGroups,
	callJobs, callCancelJob,
	callStateBucket, callApps, callKeys, callValue, callSetValue, callDeleteValue, callIdempotencyKeys, callQuery,
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

func (c call[Request, Answer]) serve(s *Service) (string, func(http.ResponseWriter, *http.Request) (any, error)) {
	return c.path, func(_ http.ResponseWriter, r *http.Request) (any, error) {
		var request Request
		if err := decode(r, &request); err != nil {
			return nil, err
		}
		return c.answer(s, r.Context(), request)
	}
}

// without makes a call of a method that has no answer but an error.
func without[Request any](method func(*Service, context.Context, Request) error) func(*Service, context.Context, Request) (empty, error) {
	return func(s *Service, ctx context.Context, request Request) (empty, error) {
		return empty{}, method(s, ctx, request)
	}
}
