package sidecar_test

import (
	"context"
	"errors"
	"net"
	"sync"
	"testing"
	"time"

	commonv1 "github.com/dapr/dapr/pkg/proto/common/v1"
	runtimev1 "github.com/dapr/dapr/pkg/proto/runtime/v1"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/emptypb"

	"github.com/dapr-bolt/dapr-bolt/cmd/todo/internal/event"
	"github.com/dapr-bolt/dapr-bolt/cmd/todo/internal/sidecar"
	"github.com/dapr-bolt/dapr-bolt/cmd/todo/internal/store"
)

// dapr is the part of a sidecar's API that the app uses. It answers with err and keeps the last request.
type dapr struct {
	runtimev1.UnimplementedDaprServer

	mu      sync.Mutex
	err     error
	records map[string]string
	last    any
}

func (d *dapr) took(request any) (*emptypb.Empty, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.last = request
	return &emptypb.Empty{}, d.err
}

func (d *dapr) GetState(_ context.Context, r *runtimev1.GetStateRequest) (*runtimev1.GetStateResponse, error) {
	if value, ok := d.records[r.GetKey()]; ok {
		return &runtimev1.GetStateResponse{Data: []byte(value), Etag: "1"}, nil
	}
	return &runtimev1.GetStateResponse{}, nil
}

func (d *dapr) GetBulkState(_ context.Context, r *runtimev1.GetBulkStateRequest) (*runtimev1.GetBulkStateResponse, error) {
	response := &runtimev1.GetBulkStateResponse{}
	for _, key := range r.GetKeys() {
		item := &runtimev1.BulkStateItem{Key: key}
		if value, ok := d.records[key]; ok {
			item.Data, item.Etag = []byte(value), "1"
		}
		if key == "broken" {
			item.Error = "disk on fire"
		}
		response.Items = append(response.Items, item)
	}
	return response, nil
}

func (d *dapr) SaveState(_ context.Context, r *runtimev1.SaveStateRequest) (*emptypb.Empty, error) {
	return d.took(r)
}

func (d *dapr) DeleteState(_ context.Context, r *runtimev1.DeleteStateRequest) (*emptypb.Empty, error) {
	return d.took(r)
}

func (d *dapr) ExecuteStateTransaction(_ context.Context, r *runtimev1.ExecuteStateTransactionRequest) (*emptypb.Empty, error) {
	return d.took(r)
}

func (d *dapr) PublishEvent(_ context.Context, r *runtimev1.PublishEventRequest) (*emptypb.Empty, error) {
	return d.took(r)
}

func connect(t *testing.T, d *dapr) *sidecar.Sidecar {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	server := grpc.NewServer()
	runtimev1.RegisterDaprServer(server, d)
	served := make(chan error, 1)
	go func() { served <- server.Serve(listener) }()
	s := &sidecar.Sidecar{}
	t.Cleanup(func() {
		s.Close()
		server.Stop()
		require.NoError(t, <-served)
	})
	require.ErrorContains(t, s.Ready(), "not been reached")
	require.NoError(t, s.Connect(t.Context(), listener.Addr().String(), time.Minute))
	require.NoError(t, s.Ready())
	return s
}

func TestReads(t *testing.T) {
	s := connect(t, &dapr{records: map[string]string{"a": "1", "b": "2"}})
	entry, err := s.Get(t.Context(), "a")
	require.NoError(t, err)
	require.Equal(t, store.Entry{Value: []byte("1"), ETag: "1"}, entry)
	entry, err = s.Get(t.Context(), "nothing")
	require.NoError(t, err)
	require.Zero(t, entry.ETag)

	entries, err := s.GetMany(t.Context(), []string{"a", "nothing", "b"})
	require.NoError(t, err)
	require.Equal(t, map[string]store.Entry{"a": {Value: []byte("1"), ETag: "1"}, "b": {Value: []byte("2"), ETag: "1"}}, entries)
	_, err = s.GetMany(t.Context(), []string{"a", "broken"})
	require.ErrorContains(t, err, "broken: disk on fire")
	entries, err = s.GetMany(t.Context(), nil)
	require.NoError(t, err)
	require.Empty(t, entries)
}

func TestWritesOneRecord(t *testing.T) {
	d := &dapr{}
	s := connect(t, d)
	apply := func(w store.Write) error {
		return s.Apply(t.Context(), store.Change{Writes: []store.Write{w}, IdempotencyKey: "k"})
	}
	require.NoError(t, apply(store.Write{Key: "a", Value: 1, ETag: "7", TTL: time.Minute}))
	saved := d.last.(*runtimev1.SaveStateRequest)
	require.Equal(t, "todo-store", saved.GetStoreName())
	item := saved.GetStates()[0]
	require.Equal(t, "1", string(item.GetValue()))
	require.Equal(t, "7", item.GetEtag().GetValue())
	require.Equal(t, commonv1.StateOptions_CONCURRENCY_FIRST_WRITE, item.GetOptions().GetConcurrency())
	require.Equal(t, map[string]string{"contentType": "application/json", "ttlInSeconds": "60", "idempotencyKey": "k"}, item.GetMetadata())

	require.NoError(t, apply(store.Write{Key: "a", Value: 1}))
	item = d.last.(*runtimev1.SaveStateRequest).GetStates()[0]
	require.Nil(t, item.GetEtag(), "first write without an ETag: the record must not exist")
	require.Equal(t, commonv1.StateOptions_CONCURRENCY_FIRST_WRITE, item.GetOptions().GetConcurrency())

	require.NoError(t, apply(store.Write{Key: "a", ETag: "7"}))
	deleted := d.last.(*runtimev1.DeleteStateRequest)
	require.Equal(t, "7", deleted.GetEtag().GetValue())
	require.Equal(t, map[string]string{"idempotencyKey": "k"}, deleted.GetMetadata())

	d.err = status.Error(codes.Aborted, "possible etag mismatch")
	require.ErrorIs(t, apply(store.Write{Key: "a", Value: 1, ETag: "6"}), store.ErrConflict)
	require.ErrorIs(t, apply(store.Write{Key: "a", ETag: "6"}), store.ErrConflict)
	require.ErrorContains(t, apply(store.Write{Key: "a", Value: func() {}}), `record "a"`)
}

func TestTransaction(t *testing.T) {
	d := &dapr{records: map[string]string{"a": "1"}}
	s := connect(t, d)
	change := store.Change{IdempotencyKey: "k", Writes: []store.Write{{Key: "a", ETag: "1"}, {Key: "b", Value: "x", TTL: time.Second}}}
	require.NoError(t, s.Apply(t.Context(), change))
	sent := d.last.(*runtimev1.ExecuteStateTransactionRequest)
	require.Equal(t, map[string]string{"idempotencyKey": "k"}, sent.GetMetadata())
	require.Equal(t, "delete", sent.GetOperations()[0].GetOperationType())
	require.Equal(t, "1", sent.GetOperations()[0].GetRequest().GetEtag().GetValue())
	require.Equal(t, "upsert", sent.GetOperations()[1].GetOperationType())
	require.Equal(t, "1", sent.GetOperations()[1].GetRequest().GetMetadata()["ttlInSeconds"])

	d.err = status.Error(codes.Internal, "error while executing state transaction")
	err := s.Apply(t.Context(), change)
	require.Error(t, err)
	require.NotErrorIs(t, err, store.ErrConflict, "each record is at the version that the change names")

	change.Writes[0].ETag = "0"
	require.ErrorIs(t, s.Apply(t.Context(), change), store.ErrConflict)
	change.Writes[0] = store.Write{Key: "a", Value: 2}
	require.ErrorIs(t, s.Apply(t.Context(), change), store.ErrConflict, "a first write of a record that exists")
}

func TestPublish(t *testing.T) {
	d := &dapr{}
	s := connect(t, d)
	e := event.Event{ID: "e1", Topic: "task-created", TodoID: "t1", Data: []byte(`{"todoId":"t1"}`)}
	require.NoError(t, s.Publish(t.Context(), e))
	sent := d.last.(*runtimev1.PublishEventRequest)
	require.Equal(t, "todo-pubsub", sent.GetPubsubName())
	require.Equal(t, "task-created", sent.GetTopic())
	require.Equal(t, "application/json", sent.GetDataContentType())
	require.Equal(t, `{"todoId":"t1"}`, string(sent.GetData()))
	require.Equal(t, map[string]string{"cloudevent.id": "e1", "cloudevent.subject": "t1"}, sent.GetMetadata())

	d.err = status.Error(codes.Unavailable, "gone")
	require.ErrorIs(t, s.Publish(t.Context(), e), store.ErrUnavailable)
}

func TestNotReachedYet(t *testing.T) {
	s := &sidecar.Sidecar{}
	_, err := s.Get(t.Context(), "a")
	require.ErrorIs(t, err, store.ErrUnavailable)
	s.Close()
}

func TestNoSidecar(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	address := listener.Addr().String()
	require.NoError(t, listener.Close())
	s := &sidecar.Sidecar{}
	require.ErrorContains(t, s.Connect(t.Context(), address, 50*time.Millisecond), "no Dapr sidecar at "+address+" within 50ms")

	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	require.True(t, errors.Is(s.Connect(ctx, address, time.Minute), context.Canceled))
}

func TestAddress(t *testing.T) {
	t.Setenv("DAPR_GRPC_ENDPOINT", "")
	t.Setenv("DAPR_GRPC_PORT", "")
	require.Equal(t, "127.0.0.1:50001", sidecar.Address())
	t.Setenv("DAPR_GRPC_PORT", "3501")
	require.Equal(t, "127.0.0.1:3501", sidecar.Address())
	t.Setenv("DAPR_GRPC_ENDPOINT", "https://dapr.example:443")
	require.Equal(t, "https://dapr.example:443", sidecar.Address())
}
