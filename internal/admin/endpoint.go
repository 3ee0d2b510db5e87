package admin

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"time"
)

// Every call but a backup ends within these.
const (
	headerTimeout = 5 * time.Second
	readTimeout   = 30 * time.Second
	writeTimeout  = time.Minute
	idleTimeout   = time.Minute
	maxHeader     = 32 << 10
)

// endpoint serves one listener until it is stopped.
type endpoint struct {
	server *http.Server
	log    *slog.Logger
	done   chan struct{}
}

func serve(l net.Listener, handler http.Handler, log *slog.Logger) *endpoint {
	e := &endpoint{
		server: &http.Server{
			Handler:           handler,
			ReadHeaderTimeout: headerTimeout,
			ReadTimeout:       readTimeout,
			WriteTimeout:      writeTimeout,
			IdleTimeout:       idleTimeout,
			MaxHeaderBytes:    maxHeader,
			ErrorLog:          slog.NewLogLogger(log.Handler(), slog.LevelWarn),
		},
		log:  log,
		done: make(chan struct{}),
	}
	go func() {
		defer close(e.done)
		if err := e.server.Serve(l); !errors.Is(err, http.ErrServerClosed) {
			log.Error("an HTTP listener ended", "address", l.Addr().String(), "error", err)
		}
	}()
	return e
}

// stop lets the calls that run come to their end, and cuts them off when ctx ends.
func (e *endpoint) stop(ctx context.Context) error {
	err := e.server.Shutdown(ctx)
	if err != nil {
		err = errors.Join(err, e.server.Close())
	}
	<-e.done
	return err
}
