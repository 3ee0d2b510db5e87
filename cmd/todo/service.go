package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"strconv"

	"github.com/dapr/go-sdk/service/common"
	"github.com/spf13/cobra"

	"github.com/dapr-bolt/dapr-bolt/cmd/todo/internal/api"
	"github.com/dapr-bolt/dapr-bolt/cmd/todo/internal/invalid"
	"github.com/dapr-bolt/dapr-bolt/cmd/todo/internal/scheduler"
	"github.com/dapr-bolt/dapr-bolt/cmd/todo/internal/sidecar"
	"github.com/dapr-bolt/dapr-bolt/cmd/todo/internal/todo"
	"github.com/dapr-bolt/dapr-bolt/cmd/todo/internal/web"
)

func newAPICommand() *cobra.Command {
	var c config
	cmd := &cobra.Command{
		Use:   "api",
		Short: "Keep todos and offer them over HTTP",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return c.serve(cmd, "todo-api", api.Status, func(app *web.App, s *sidecar.Sidecar, logger *slog.Logger) (background, error) {
				relay := todo.NewRelay(todo.RelayOptions{Store: s, Publisher: s, Logger: logger})
				api.Register(app, todo.NewService(todo.Options{Store: s, Relay: relay, Logger: logger}))
				return relay.Run, nil
			})
		},
	}
	c.register(cmd.Flags(), 8000)
	return cmd
}

func newSchedulerCommand() *cobra.Command {
	var c config
	var slotsPerDay int
	var failTitlesContaining string
	var allowFaults bool
	cmd := &cobra.Command{
		Use:   "scheduler",
		Short: "Book a slot for each new todo, or reject it",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return c.serve(cmd, "todo-scheduler", scheduler.Status, func(app *web.App, s *sidecar.Sidecar, logger *slog.Logger) (background, error) {
				if slotsPerDay < 1 || slotsPerDay > scheduler.MaxSlotsPerDay {
					return nil, invalid.NewField("slots-per-day", strconv.Itoa(slotsPerDay), fmt.Sprintf("1 to %d", scheduler.MaxSlotsPerDay))
				}
				faults := &scheduler.Faults{}
				faults.FailTitlesContaining(failTitlesContaining)
				service, err := scheduler.New(scheduler.Options{Store: s, Publisher: s, SlotsPerDay: slotsPerDay, Faults: faults, Logger: logger})
				if err != nil {
					return nil, err
				}
				options := scheduler.HandlerOptions{Service: service}
				if allowFaults {
					options.Faults = faults
				}
				scheduler.Register(app, options)
				return func(ctx context.Context) { <-ctx.Done() }, nil
			})
		},
	}
	flags := cmd.Flags()
	c.register(flags, 8001)
	flags.IntVar(&slotsPerDay, "slots-per-day", scheduler.DefaultSlotsPerDay, fmt.Sprintf("todos that fit into a day, 1 to %d", scheduler.MaxSlotsPerDay))
	flags.StringVar(&failTitlesContaining, "fail-titles-containing", "", "fault injection for demonstrations: fail each todo whose title contains this word")
	flags.BoolVar(&allowFaults, "allow-faults", false, "fault injection for demonstrations: let PUT /faults change that word at run time")
	return cmd
}

// background is what a service does beside serving, from when its sidecar is reached until ctx ends.
type background func(ctx context.Context)

type build func(app *web.App, s *sidecar.Sidecar, logger *slog.Logger) (background, error)

// serve runs a service: it listens first, because its sidecar waits for that, and then waits for the sidecar.
func (c *config) serve(cmd *cobra.Command, service string, status func(error) int, build build) error {
	if err := fromEnvironment(cmd.Flags()); err != nil {
		return err
	}
	logger, err := c.logger(cmd.ErrOrStderr(), service)
	if err != nil {
		return err
	}
	dapr := &sidecar.Sidecar{}
	defer dapr.Close()
	app := web.New(web.Options{
		PubSub:   sidecar.PubSub,
		Ready:    dapr.Ready,
		Status:   status,
		AppToken: os.Getenv(common.AppAPITokenEnvVar),
		Logger:   logger,
	})
	work, err := build(app, dapr, logger)
	if err != nil {
		return err
	}
	address := net.JoinHostPort(c.host, strconv.Itoa(int(c.port)))
	listener, err := (&net.ListenConfig{}).Listen(cmd.Context(), "tcp", address)
	if err != nil {
		return fmt.Errorf("listen on %s: %w", address, err)
	}
	logger.Info("Listening", "address", listener.Addr().String())
	err = web.Serve(cmd.Context(), listener, app.Handler(), c.grace, logger, func(ctx context.Context) error {
		at := sidecar.Address()
		logger.Info("Waiting for the sidecar", "address", at, "timeout", c.sidecarTimeout)
		if err := dapr.Connect(ctx, at, c.sidecarTimeout); err != nil {
			if errors.Is(err, context.Canceled) {
				return nil
			}
			return err
		}
		logger.Info("Ready")
		work(ctx)
		return nil
	})
	logger.Info("Stopped")
	return err
}
