package main

import (
	"context"
	"log/slog"
	"net"
	"net/http"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestStopWaitsForTheRequestsInFlight(t *testing.T) {
	e := newEnv(t, 1)
	var stop func() error
	e.api, stop = start(t, "api", "--shutdown-timeout", "10m")
	arrived, release := make(chan struct{}), make(chan struct{})
	e.dapr.fault(first("PublishEvent", func() { close(arrived); <-release }), nil)
	created := make(chan answer, 1)
	go func() { created <- e.post("milk", tomorrow, "") }()
	<-arrived
	stopped := make(chan error, 1)
	go func() { stopped <- stop() }()
	close(release)
	require.Equal(t, http.StatusCreated, (<-created).StatusCode)
	require.NoError(t, <-stopped)
}

func TestStopIsBounded(t *testing.T) {
	s := newServer(slog.New(slog.DiscardHandler))
	arrived, release := make(chan struct{}), make(chan struct{})
	s.handle("GET /slow", func(http.ResponseWriter, *http.Request) error { close(arrived); <-release; return nil })
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	ctx, stop := context.WithCancel(t.Context())
	served, cut := make(chan error, 1), make(chan error, 1)
	go func() { served <- s.serve(ctx, listener, time.Millisecond) }()
	go func() {
		response, err := http.Get("http://" + listener.Addr().String() + "/slow")
		if err == nil {
			response.Body.Close()
		}
		cut <- err
	}()
	<-arrived
	stop()
	require.ErrorContains(t, <-served, "still in flight after 1ms")
	require.Error(t, <-cut)
	close(release)
}
