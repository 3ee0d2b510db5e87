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

	callTopics      = call[TopicsRequest, Topics]{"/v1/topics", (*Service).Topics}
	callRemoveGroup = call[GroupRequest, empty]{"/v1/topics/remove-group", without((*Service).RemoveGroup)}

	callDeadLetters = call[ListOptions, DeadLetterPage]{"/v1/dead-letters/list", (*Service).DeadLetters}
	callDeadLetter  = call[IDRequest, DeadLetter]{"/v1/dead-letters/show", (*Service).DeadLetter}
	callRedrive     = call[IDsRequest, RedriveResult]{"/v1/dead-letters/redrive", (*Service).Redrive}
	callPurge       = call[IDsRequest, PurgeResult]{"/v1/dead-letters/purge", (*Service).Purge}
)

// routes registers all of them.
func (s *Server) routes() http.Handler {
	mux := http.NewServeMux()
	for _, r := range []route{
		callInfo, callReady, callBuckets, callBackup,
		callTopics, callRemoveGroup,
		callDeadLetters, callDeadLetter, callRedrive, callPurge,
	} {
		path, answer := r.serve(s.opts.Service)
		mux.HandleFunc("POST "+path, s.handle(answer))
	}
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
