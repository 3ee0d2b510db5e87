package e2e

import (
	"context"
	"fmt"
	"io"
	"time"

	"github.com/dapr-bolt/dapr-bolt/conformance/harness"
	"github.com/dapr-bolt/dapr-bolt/internal/admin"
)

// maxDeliver and backOff replace what the component file says, so that an event
// that always fails is given up on while somebody watches.
const (
	maxDeliver = 3
	backOff    = "200ms,400ms"
)

// seeTimeout is how long a step waits for what it expects.
const seeTimeout = 2 * time.Minute

// Step is one part of the story. Later steps build on what earlier ones left.
type Step struct {
	// Title says what is to be seen.
	Title string
	// Play does the step and returns what it saw, a line each. Its error says what
	// was expected and what was seen.
	Play func(context.Context) (saw []string, err error)
}

// Story is a todo app of its own and what has happened in it.
type Story struct {
	// Todo is the app.
	Todo   *harness.Todo
	doomed todo // created by the step whose handler fails
	letter admin.DeadLetter
}

// Start builds what is missing (and tells progress), starts the todo app in h on free
// ports and returns its story.
func Start(ctx context.Context, h *harness.Harness, checkout harness.Checkout, progress io.Writer) (*Story, error) {
	return StartOn(ctx, h, checkout, nil, progress)
}

// StartOn is Start with state and events on servers, and a dapr-bolt for each service. With no servers, it is Start.
func StartOn(ctx context.Context, h *harness.Harness, checkout harness.Checkout, servers *harness.Servers, progress io.Writer) (*Story, error) {
	programs, err := checkout.BuildPrograms(ctx, progress)
	if err != nil {
		return nil, err
	}
	components := h.Dir("components")
	if err := writeComponents(checkout.Path("components"), components, servers); err != nil {
		return nil, err
	}
	s, err := h.StartTodo(ctx, harness.TodoOptions{
		Programs:      programs,
		Components:    components,
		Pods:          servers != nil,
		SchedulerArgs: []string{"--allow-faults"},
	})
	if err != nil {
		return nil, err
	}
	return &Story{Todo: s}, nil
}

// writeComponents copies the todo app's component files with a shorter patience, on servers if there are any.
func writeComponents(from, to string, servers *harness.Servers) error {
	store, err := harness.ReadComponent(from + "/" + harness.StoreComponent + ".yaml")
	if err != nil {
		return err
	}
	pubsub, err := harness.ReadComponent(from + "/" + harness.PubSubComponent + ".yaml")
	if err != nil {
		return err
	}
	pubsub.Set("maxDeliver", fmt.Sprint(maxDeliver))
	pubsub.Set("backOff", backOff)
	if servers != nil {
		servers.Use(&store)
		servers.Use(&pubsub)
	}
	return harness.WriteComponents(to, store, pubsub)
}

// Steps are the story, in order.
func (s *Story) Steps() []Step {
	return []Step{
		{"a todo is created, and the scheduler books a slot for it", s.created},
		{"a todo that cannot be booked is rejected by compensation", s.rejected},
		{"one event published five times with one id arrives once", s.duplicates},
		{fmt.Sprintf("an event whose handler always fails is a dead letter after %d deliveries", maxDeliver), s.dead},
		{"with the handler mended and the dead letter redriven, the event is delivered", s.redriven},
		{"after SIGKILL of dapr-bolt and a restart, the todos are all there", s.killed},
		{"and its events flow again, though nobody restarted the sidecars", s.resubscribed},
	}
}

// Play plays every step and prints what each one saw, up to the first that fails.
func (s *Story) Play(ctx context.Context, out io.Writer) error {
	steps := s.Steps()
	for i, step := range steps {
		_, _ = fmt.Fprintf(out, "\n%d/%d %s\n", i+1, len(steps), step.Title)
		began := time.Now()
		saw, err := step.Play(ctx)
		for _, line := range saw {
			_, _ = fmt.Fprintf(out, "    %s\n", line)
		}
		if err != nil {
			return fmt.Errorf("step %d, %s: %w", i+1, step.Title, err)
		}
		_, _ = fmt.Fprintf(out, "    seen in %s\n", time.Since(began).Round(time.Millisecond))
	}
	return nil
}
