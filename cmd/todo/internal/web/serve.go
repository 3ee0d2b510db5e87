package web

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"time"
)

// Serve serves on a listener, which it closes, until ctx ends or background returns. Then it takes no
// more connections and waits for the requests in hand, for grace at most. background runs beside the server and
// is told to stop only after the last request is answered. Serve returns after both have ended; the end of ctx
// is no error.
func Serve(ctx context.Context, listener net.Listener, handler http.Handler, grace time.Duration, logger *slog.Logger,
	background func(ctx context.Context) error,
) error {
	server := &http.Server{
		Handler:           handler,
		ReadHeaderTimeout: 5 * time.Second,
		ReadTimeout:       requestTimeout,
		WriteTimeout:      2 * requestTimeout,
		IdleTimeout:       2 * time.Minute,
		ErrorLog:          slog.NewLogLogger(logger.Handler(), slog.LevelWarn),
	}
	served := make(chan error, 1)
	go func() { served <- server.Serve(listener) }()

	backgroundCtx, stopBackground := context.WithCancel(context.WithoutCancel(ctx))
	defer stopBackground()
	ended := make(chan error, 1)
	go func() { ended <- background(backgroundCtx) }()

	var err error
	select {
	case <-ctx.Done():
		err = shutDown(server, grace)
		stopBackground()
		return errors.Join(err, ignoreClosed(<-served), <-ended)
	case err = <-served:
		stopBackground()
		return errors.Join(fmt.Errorf("serve on %s: %w", listener.Addr(), err), <-ended)
	case err = <-ended:
		return errors.Join(err, shutDown(server, grace), ignoreClosed(<-served))
	}
}

func shutDown(server *http.Server, grace time.Duration) error {
	ctx, cancel := context.WithTimeout(context.Background(), grace)
	defer cancel()
	if err := server.Shutdown(ctx); err != nil {
		return errors.Join(fmt.Errorf("requests still in hand after %s were cut off: %w", grace, err), server.Close())
	}
	return nil
}

func ignoreClosed(err error) error {
	if errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return err
}
