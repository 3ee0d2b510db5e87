package web_test

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/dapr-bolt/dapr-bolt/cmd/todo/internal/web"
)

// served is a server whose one handler waits until it is let go.
type served struct {
	url           string
	inHand, letGo chan struct{}
	stop          context.CancelFunc
	ended         chan error
	order         chan string
}

func run(t *testing.T, grace time.Duration, background func(context.Context) error) *served {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	ctx, stop := context.WithCancel(t.Context())
	s := &served{
		url: "http://" + listener.Addr().String(), inHand: make(chan struct{}), letGo: make(chan struct{}),
		stop: stop, ended: make(chan error, 1), order: make(chan string, 2),
	}
	handler := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		close(s.inHand)
		<-s.letGo
		s.order <- "request"
		_, _ = io.WriteString(w, "done")
	})
	if background == nil {
		background = func(ctx context.Context) error {
			<-ctx.Done()
			s.order <- "background"
			return nil
		}
	}
	go func() { s.ended <- web.Serve(ctx, listener, handler, grace, slog.New(slog.DiscardHandler), background) }()
	return s
}

// get asks once, on a connection of its own.
func (s *served) get() (string, error) {
	transport := &http.Transport{DisableKeepAlives: true}
	defer transport.CloseIdleConnections()
	response, err := (&http.Client{Transport: transport}).Get(s.url)
	if err != nil {
		return "", err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	return string(body), err
}

func TestStopsAfterTheRequestsInHand(t *testing.T) {
	s := run(t, time.Minute, nil)
	body := make(chan string)
	go func() {
		got, _ := s.get()
		body <- got
	}()
	<-s.inHand
	s.stop()
	require.Eventually(t, func() bool { _, err := s.get(); return err != nil }, 5*time.Second, time.Millisecond, "no new connections")
	close(s.letGo)
	require.Equal(t, "done", <-body)
	require.NoError(t, <-s.ended)
	require.Equal(t, "request", <-s.order)
	require.Equal(t, "background", <-s.order, "told to stop last")
}

func TestStopIsBounded(t *testing.T) {
	s := run(t, time.Millisecond, nil)
	failed := make(chan error)
	go func() {
		_, err := s.get()
		failed <- err
	}()
	<-s.inHand
	s.stop()
	require.ErrorContains(t, <-s.ended, "cut off")
	require.Error(t, <-failed)
	close(s.letGo)
	<-s.order
	<-s.order
}

func TestBackgroundFailureEndsTheServer(t *testing.T) {
	broken := errors.New("no sidecar")
	s := run(t, time.Minute, func(context.Context) error { return broken })
	require.ErrorIs(t, <-s.ended, broken)
	_, err := s.get()
	require.Error(t, err)
}
