package main

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	commonv1 "github.com/dapr/dapr/pkg/proto/common/v1"
	runtimev1 "github.com/dapr/dapr/pkg/proto/runtime/v1"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/emptypb"
)

// fakeDapr is the sidecar of both services: state with ETags and idempotency keys, and a broker that keeps every publish,
// duplicates too. What it kept is delivered when a test says so.
type fakeDapr struct {
	runtimev1.UnimplementedDaprServer

	mu        sync.Mutex
	records   map[string]*commonv1.StateItem
	done      map[string]bool // idempotency keys
	version   int
	published []*runtimev1.PublishEventRequest
	delivered int
	// before, if set, is asked before a call takes effect, after before its answer goes out.
	before, after func(method string) error
}

// fault sets what goes wrong from now on; nil: nothing.
func (f *fakeDapr) fault(before, after func(method string) error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.before, f.after = before, after
}

// failing makes a method fail.
func failing(method string, code codes.Code) func(string) error {
	return func(called string) error {
		if called == method {
			return status.Error(code, "fault in "+method)
		}
		return nil
	}
}

// first has do run before the next call of a method takes effect, and nothing before those that do makes.
func first(method string, do func()) func(string) error {
	var done atomic.Bool
	return func(called string) error {
		if called == method && done.CompareAndSwap(false, true) {
			do()
		}
		return nil
	}
}

func (f *fakeDapr) intercept(ctx context.Context, req any, info *grpc.UnaryServerInfo, handle grpc.UnaryHandler) (any, error) {
	f.mu.Lock()
	before, after := f.before, f.after
	f.mu.Unlock()
	method := info.FullMethod[strings.LastIndex(info.FullMethod, "/")+1:]
	if before != nil {
		if err := before(method); err != nil {
			return nil, err
		}
	}
	answer, err := handle(ctx, req)
	if err == nil && after != nil {
		err = after(method)
	}
	return answer, err
}

func (f *fakeDapr) GetState(_ context.Context, r *runtimev1.GetStateRequest) (*runtimev1.GetStateResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	item := f.records[r.GetKey()]
	return &runtimev1.GetStateResponse{Data: item.GetValue(), Etag: item.GetEtag().GetValue()}, nil
}

func (f *fakeDapr) SaveState(_ context.Context, r *runtimev1.SaveStateRequest) (*emptypb.Empty, error) {
	if err := f.write(r.GetStates()[0].GetMetadata()["idempotencyKey"], r.GetStates()); err != nil {
		return nil, status.Error(codes.Aborted, err.Error())
	}
	return &emptypb.Empty{}, nil
}

func (f *fakeDapr) ExecuteStateTransaction(_ context.Context, r *runtimev1.ExecuteStateTransactionRequest) (*emptypb.Empty, error) {
	var items []*commonv1.StateItem
	for _, o := range r.GetOperations() {
		items = append(items, o.GetRequest())
	}
	if err := f.write(r.GetMetadata()["idempotencyKey"], items); err != nil {
		return nil, status.Error(codes.Internal, err.Error())
	}
	return &emptypb.Empty{}, nil
}

// write writes all items or none. Each must be a first write or name the version that it replaces.
func (f *fakeDapr) write(key string, items []*commonv1.StateItem) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if key != "" && f.done[key] {
		return nil
	}
	for _, item := range items {
		if item.GetOptions().GetConcurrency() != commonv1.StateOptions_CONCURRENCY_FIRST_WRITE {
			return fmt.Errorf("a blind write of %s", item.GetKey())
		}
		if is := f.records[item.GetKey()].GetEtag().GetValue(); is != item.GetEtag().GetValue() {
			return fmt.Errorf("%s is at version %q, not %q", item.GetKey(), is, item.GetEtag().GetValue())
		}
	}
	for _, item := range items {
		f.version++
		f.records[item.GetKey()] = &commonv1.StateItem{Key: item.GetKey(), Value: item.GetValue(), Etag: &commonv1.Etag{Value: strconv.Itoa(f.version)}}
	}
	f.done[key] = true
	return nil
}

// QueryStateAlpha1 knows the query that the api asks: records with one of some statuses, sorted, in pages.
func (f *fakeDapr) QueryStateAlpha1(_ context.Context, r *runtimev1.QueryStateRequest) (*runtimev1.QueryStateResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	var query struct {
		Filter struct{ IN struct{ Status []string } }
		Sort   []struct{ Key string }
		Page   struct {
			Limit int
			Token string
		}
	}
	if err := json.Unmarshal([]byte(r.GetQuery()), &query); err != nil {
		return nil, err
	}
	var found []map[string]any
	for _, item := range f.records {
		var record map[string]any
		// A day is no object.
		_ = json.Unmarshal(item.GetValue(), &record)
		if at, _ := record["status"].(string); slices.Contains(query.Filter.IN.Status, at) {
			found = append(found, record)
		}
	}
	slices.SortFunc(found, func(a, b map[string]any) int {
		for _, by := range query.Sort {
			if c := strings.Compare(a[by.Key].(string), b[by.Key].(string)); c != 0 {
				return c
			}
		}
		return 0
	})
	start, _ := strconv.Atoi(query.Page.Token)
	end := min(start+query.Page.Limit, len(found))
	answer := &runtimev1.QueryStateResponse{}
	for _, record := range found[start:end] {
		value, _ := json.Marshal(record)
		answer.Results = append(answer.Results, &runtimev1.QueryStateItem{Data: value})
	}
	if end < len(found) {
		answer.Token = strconv.Itoa(end)
	}
	return answer, nil
}

func (f *fakeDapr) PublishEvent(_ context.Context, r *runtimev1.PublishEventRequest) (*emptypb.Empty, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.published = append(f.published, r)
	return &emptypb.Empty{}, nil
}

// eventIDs are those that were published, in order and as often as they were.
func (f *fakeDapr) eventIDs() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	var ids []string
	for _, r := range f.published {
		ids = append(ids, r.GetMetadata()["cloudevent.id"])
	}
	return ids
}

// env is both services, run as their commands run them, and their sidecar.
type env struct {
	t              *testing.T
	dapr           *fakeDapr
	api, scheduler string // their addresses
}

// newEnv starts both services. All but so many slots of tomorrow are taken.
func newEnv(t *testing.T, free int) *env {
	e := &env{t: t, dapr: &fakeDapr{records: map[string]*commonv1.StateItem{}, done: map[string]bool{}}}
	var taken day
	for i := range len(taken) - free {
		taken[i] = "taken"
	}
	value, err := json.Marshal(taken)
	require.NoError(t, err)
	e.dapr.records[dayKey(tomorrow)] = &commonv1.StateItem{Key: dayKey(tomorrow), Value: value, Etag: &commonv1.Etag{Value: "0"}}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	server := grpc.NewServer(grpc.UnaryInterceptor(e.dapr.intercept))
	runtimev1.RegisterDaprServer(server, e.dapr)
	var served sync.WaitGroup
	served.Go(func() { _ = server.Serve(listener) })
	t.Cleanup(func() { server.Stop(); served.Wait() })
	t.Setenv("DAPR_GRPC_ENDPOINT", listener.Addr().String())
	e.api, _ = start(t, "api")
	e.scheduler, _ = start(t, "scheduler", "--allow-faults")
	t.Cleanup(http.DefaultClient.CloseIdleConnections)
	return e
}

// start runs a service until stop is called, or the test ends, and waits until it is ready.
func start(t *testing.T, args ...string) (address string, stop func() error) {
	ctx, cancel := context.WithCancel(t.Context())
	ready := make(chan string, 1)
	ended := make(chan error, 1)
	cmd := newCommand()
	cmd.SetArgs(append(args, "--port", "0", "--log-json"))
	cmd.SetErr(logWatch{`"msg":"Ready"`, func(line string) {
		var log struct{ Address string }
		_ = json.Unmarshal([]byte(line), &log)
		ready <- log.Address
	}})
	go func() { ended <- cmd.ExecuteContext(ctx) }()
	stop = sync.OnceValue(func() error { cancel(); return <-ended })
	t.Cleanup(func() { require.NoError(t, stop()) })
	select {
	case address = <-ready:
	case err := <-ended:
		ended <- err
		require.Fail(t, "the service ended", err)
	}
	return address, stop
}

// answer is an HTTP answer.
type answer struct {
	*http.Response
	body string
}

func (a answer) todo(t *testing.T) (made todo) {
	require.Less(t, a.StatusCode, 300, a.body)
	require.NoError(t, json.Unmarshal([]byte(a.body), &made))
	return made
}

func (e *env) call(service, method, path, body string, headers ...string) answer {
	r, err := http.NewRequestWithContext(e.t.Context(), method, "http://"+service+path, strings.NewReader(body))
	require.NoError(e.t, err)
	for i := 0; i < len(headers); i += 2 {
		r.Header.Set(headers[i], headers[i+1])
	}
	response, err := http.DefaultClient.Do(r)
	require.NoError(e.t, err)
	defer response.Body.Close()
	got, err := io.ReadAll(response.Body)
	require.NoError(e.t, err)
	return answer{response, string(bytes.TrimSpace(got))}
}

// post creates a todo; key may be empty.
func (e *env) post(title string, due time.Time, key string) answer {
	return e.call(e.api, "POST", "/todos", fmt.Sprintf(`{"title":%q,"due":%q}`, title, due.Format(time.RFC3339)), "Idempotency-Key", key)
}

func (e *env) todo(id string) todo { return e.call(e.api, "GET", "/todos/"+id, "").todo(e.t) }

// deliver delivers an event as a sidecar does.
func (e *env) deliver(r *runtimev1.PublishEventRequest) answer {
	service := e.scheduler
	if r.GetTopic() == taskScheduled || r.GetTopic() == taskRejected {
		service = e.api
	}
	body := fmt.Sprintf(`{"id":%q,"data":%s}`, r.GetMetadata()["cloudevent.id"], r.GetData())
	return e.call(service, "POST", "/events/"+r.GetTopic(), body)
}

// run delivers what was published, each event three times, until nothing new comes, and returns what handlers refused.
// What is published again under one id must say the same.
func (e *env) run() (refused []string) {
	said := map[string]string{}
	for {
		e.dapr.mu.Lock()
		events := slices.Clone(e.dapr.published[e.dapr.delivered:])
		e.dapr.delivered += len(events)
		e.dapr.mu.Unlock()
		if len(events) == 0 {
			return refused
		}
		for _, r := range events {
			id, says := r.GetMetadata()["cloudevent.id"], string(r.GetData())
			require.Equal(e.t, says, cmp.Or(said[id], says))
			said[id] = says
			for range 3 {
				if a := e.deliver(r); a.StatusCode != http.StatusOK {
					refused = append(refused, a.body)
				}
			}
		}
	}
}

// holders are the todos that a test made and that have a slot on a day, each one slot.
func (e *env) holders(date time.Time) (ids []string) {
	var booked struct{ Slots day }
	a := e.call(e.scheduler, "GET", "/days/"+dateOf(date), "")
	require.NoError(e.t, json.Unmarshal([]byte(a.body), &booked), a.body)
	for _, id := range booked.Slots {
		if id != "" && id != "taken" {
			require.NotContains(e.t, ids, id)
			ids = append(ids, id)
		}
	}
	return slices.Sorted(slices.Values(ids))
}

func sorted(ids ...string) []string { return slices.Sorted(slices.Values(ids)) }

// todos are the keys of all todos.
func (f *fakeDapr) todos() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.DeleteFunc(slices.Sorted(maps.Keys(f.records)), func(key string) bool { return !strings.HasPrefix(key, "todo/") })
}
