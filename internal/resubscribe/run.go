package resubscribe

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/jonboulle/clockwork"

	"github.com/dapr-bolt/dapr-bolt/internal/sidecars"
)

const (
	// grace is how long streams have to come back by themselves, from sidecars that are starting.
	grace = 2 * time.Second
	// patience is how long streams have to come back once they were asked for.
	patience = 30 * time.Second
)

// Options for Run. Sidecars and ComponentType are required.
type Options struct {
	// Sidecars knows which subscriptions are missing.
	Sidecars *sidecars.Registry
	// ComponentType is the type of the components whose subscriptions to revive, such as pubsub.bolt.
	ComponentType string
	// Files are component files in which to change a value, so that hot reload makes the sidecars subscribe again.
	Files []string
	// Sidecar is the URL of a sidecar's HTTP API, to be shut down so that whatever watches over it starts it afresh.
	Sidecar string
	// APIToken is sent to the sidecar, if there is one.
	APIToken string
	// Clock default: the system's.
	Clock clockwork.Clock
	// Logger default: slog.Default().
	Logger *slog.Logger
}

// Run waits for the streams that earlier processes had, asks for those that do not come back, and says what to do about
// those that cannot be had. It returns when nothing is missing, when it has said so, or when ctx ends.
func Run(ctx context.Context, o Options) {
	if o.Clock == nil {
		o.Clock = clockwork.NewRealClock()
	}
	if o.Logger == nil {
		o.Logger = slog.Default()
	}
	if o.waitFor(ctx, grace) || ctx.Err() != nil {
		return
	}
	missing := o.Sidecars.Missing()
	log := o.Logger.With("components", strings.Join(missing, ", "))
	if len(o.Files) == 0 && o.Sidecar == "" {
		log.Warn("apps had subscriptions when the last process ended, and their sidecars do not open them again by themselves: " +
			"restart the sidecars, or change a metadata value in the components' files; started with --resubscribe FILE or --restart-sidecar URL, dapr-bolt does it")
		return
	}
	log.Info("subscriptions did not come back after the restart: asking for them")
	// Apps with a file each may use the same name in them.
	unnamed := slices.Clone(missing)
	for _, file := range o.Files {
		found, err := Touch(file, o.ComponentType, missing, o.Clock.Now().UTC().Format(time.RFC3339Nano))
		if err != nil {
			log.Error("a component file could not be changed", "error", err)
		}
		unnamed = slices.DeleteFunc(unnamed, func(name string) bool { return slices.Contains(found, name) })
	}
	if o.Sidecar != "" {
		if err := o.shutdown(ctx); err != nil {
			log.Error("the sidecar could not be asked to restart", "error", err)
		}
	} else if len(unnamed) > 0 {
		log.Warn("none of the component files names these components: add theirs to --resubscribe", "missing", strings.Join(unnamed, ", "), "files", o.Files)
	}
	switch {
	case o.waitFor(ctx, patience):
		log.Info("the subscriptions are back")
	case ctx.Err() == nil:
		o.Logger.Warn("subscriptions have not come back: if their apps still run, restart their sidecars; after a restart of dapr-bolt they are asked for again",
			"components", strings.Join(o.Sidecars.Missing(), ", "))
	}
}

// waitFor reports whether all streams are back within that time.
func (o *Options) waitFor(ctx context.Context, d time.Duration) bool {
	timer := o.Clock.NewTimer(d)
	defer timer.Stop()
	for {
		changed := o.Sidecars.Changed()
		if len(o.Sidecars.Missing()) == 0 {
			return true
		}
		select {
		case <-changed:
		case <-timer.Chan():
			// A sidecar that has ended since misses nothing.
			return len(o.Sidecars.Missing()) == 0
		case <-ctx.Done():
			return false
		}
	}
}

// shutdown asks the sidecar to end itself (https://docs.dapr.io/reference/api/health_api/, "Shutdown").
func (o *Options) shutdown(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	url := strings.TrimRight(o.Sidecar, "/") + "/v1.0/shutdown"
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, url, nil)
	if err != nil {
		return err
	}
	if o.APIToken != "" {
		req.Header.Set("dapr-api-token", o.APIToken)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode >= 300 {
		body, _ := io.ReadAll(io.LimitReader(resp.Body, 512))
		return fmt.Errorf("POST %s: %s: %s", url, resp.Status, strings.TrimSpace(string(body)))
	}
	return nil
}
