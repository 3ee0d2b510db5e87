package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"

	"github.com/spf13/cobra"
	"gopkg.in/yaml.v3"

	"github.com/dapr-bolt/dapr-bolt/internal/component"
	"github.com/dapr-bolt/dapr-bolt/internal/databases"
	"github.com/dapr-bolt/dapr-bolt/internal/servers"
	"github.com/dapr-bolt/dapr-bolt/internal/sidecars"
	"github.com/dapr-bolt/dapr-bolt/pubsub"
	"github.com/dapr-bolt/dapr-bolt/statestore"
)

// migration is what a migration has copied; State or Events, by the components' type.
type migration struct {
	From   string             `json:"from"`
	To     string             `json:"to"`
	State  *statestore.Copied `json:"state,omitempty"`
	Events *pubsub.Copied     `json:"events,omitempty"`
}

func (c *cli) migrateCommand() *cobra.Command {
	var from, to string
	cmd := c.command("migrate --from OLD.yaml --to NEW.yaml", "Copy a component's data to another place: from a file to servers, or back", func(ctx context.Context, _ []string) error {
		result, err := c.migrate(ctx, from, to)
		return show(c, result, err, c.printMigration)
	})
	cmd.Long = `Copy what a component keeps to where another one of the same type keeps it: from a file to etcd or NATS, back, or to
another file. OLD.yaml and NEW.yaml are component files; files lie in --data-dir.

Of state, it copies all keys with their expiry, and the idempotency keys with what is left of their window. ETags are new: old
ones are refused. Of events, it copies topics, groups, and per group what it is owed, with delivery counts, errors and the time
of the next delivery, dead letters with theirs, delayed events, and the ids of events that were seen.

Stop everything first that works on either place: apps, sidecars, and each dapr-bolt process. A process that has a file open
or works on NATS is found out; of those that work on etcd, not each. The source stays as it is.

The new place must be empty. A migration that was killed goes on when it is run again: state where it was, events anew, after
what was copied of them is removed. Until it is complete, no dapr-bolt opens the new place for events. In the end both are
compared.`
	cmd.Example = `  dapr-bolt migrate --from components/todo-store.yaml --to cluster/todo-store.yaml`
	cmd.Flags().StringVar(&from, "from", "", "the component file of the place to copy from")
	cmd.Flags().StringVar(&to, "to", "", "the component file of the place to copy to")
	c.outputFlag(cmd, cmd.Flags())
	return cmd
}

func (c *cli) migrate(ctx context.Context, from, to string) (result migration, err error) {
	kind, source, err := c.place("from", from)
	if err != nil {
		return result, err
	}
	newKind, target, err := c.place("to", to)
	switch {
	case err != nil:
		return result, err
	case newKind != kind:
		return result, usagef("--from is a %s component and --to a %s component: allowed: two of one type", kind, newKind)
	case source.Database == target.Database && source.Etcd == nil && source.NATS == nil && target.Etcd == nil && target.NATS == nil:
		return result, usagef("--from and --to are in the same file, database %s: allowed: two databases, since ETags are a file's", source.Database)
	}
	result.From, result.To = source.String(), target.String()
	manager, err := databases.Open(ctx, databases.Options{Dir: c.dataDir, Clock: c.clock, Logger: slog.New(slog.NewTextHandler(c.errOut, &slog.HandlerOptions{Level: slog.LevelWarn}))})
	if err != nil {
		return result, err
	}
	defer func() {
		closing, cancel := context.WithTimeout(context.WithoutCancel(ctx), stopWithin)
		defer cancel()
		err = errors.Join(stopFirst(err), manager.Close(closing))
	}()
	if kind == sidecars.State {
		result.State, err = c.migrateState(ctx, manager, source, target)
	} else {
		result.Events, err = c.migrateEvents(ctx, manager, source, target)
	}
	return result, err
}

func (c *cli) migrateState(ctx context.Context, manager *databases.Manager, source, target servers.Place) (*statestore.Copied, error) {
	from, err := manager.StateAtRest(ctx, source, true)
	if err != nil {
		return nil, err
	}
	to, err := manager.StateAtRest(ctx, target, false)
	if err != nil {
		return nil, err
	}
	copied, err := statestore.Copy(ctx, from, to, c.clock.Now(), func(done statestore.Copied) {
		c.progress("%d keys, %d idempotency keys", done.Keys, done.IdempotencyKeys)
	})
	if err != nil {
		return nil, fmt.Errorf("migrate to %s: %w", target, err)
	}
	return &copied, nil
}

func (c *cli) migrateEvents(ctx context.Context, manager *databases.Manager, source, target servers.Place) (result *pubsub.Copied, err error) {
	from, closeFrom, err := manager.EventsAtRest(ctx, source, true)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, closeFrom(context.WithoutCancel(ctx))) }()
	to, closeTo, err := manager.EventsAtRest(ctx, target, false)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, closeTo(context.WithoutCancel(ctx))) }()
	copied, err := pubsub.Copy(ctx, from, source.String(), to, c.clock.Now, func(records uint64) { c.progress("%d records", records) })
	if err != nil {
		return nil, fmt.Errorf("migrate to %s: %w", target, err)
	}
	return &copied, nil
}

// progress shows on a terminal how far a command has come.
func (c *cli) progress(format string, args ...any) {
	if c.interactive && c.output != outputJSON {
		fmt.Fprintf(c.errOut, "\r"+format+"\x1b[K", args...)
	}
}

func (c *cli) printMigration(m migration) error {
	var b strings.Builder
	if c.interactive {
		fmt.Fprint(c.errOut, "\r\x1b[K")
	}
	fmt.Fprintf(&b, "from %s\nto   %s\n", harmless(m.From), harmless(m.To))
	if m.State != nil {
		fmt.Fprintf(&b, "%s, %s, checksum %s: the same in both\n", count(m.State.Keys, "key", "keys"), count(m.State.IdempotencyKeys, "idempotency key", "idempotency keys"), m.State.Checksum)
	}
	if m.Events != nil {
		for _, of := range []struct {
			kind      pubsub.RecordKind
			one, many string
		}{
			{pubsub.RecordTopic, "topic", "topics"},
			{pubsub.RecordGroup, "consumer group of a topic", "consumer groups of topics"},
			{pubsub.RecordOwed, "event that a group is owed", "events that groups are owed"},
			{pubsub.RecordKept, "event that no group consumes", "events that no group consumes"},
			{pubsub.RecordDelayed, "delayed event", "delayed events"},
			{pubsub.RecordDead, "dead letter", "dead letters"},
			{pubsub.RecordID, "id of an event", "ids of events"},
		} {
			if n := m.Events.Counts[of.kind]; n > 0 {
				fmt.Fprintln(&b, count(n, of.one, of.many))
			}
		}
		fmt.Fprintf(&b, "checksum %s: the same in both\n", m.Events.Checksum)
	}
	return c.printf("%s", b.String())
}

// place reads where the component of a file keeps its data.
func (c *cli) place(flag, path string) (kind sidecars.Kind, p servers.Place, err error) {
	if path == "" {
		return "", p, usagef("there is no --%s: allowed: a component file", flag)
	}
	documents, err := readComponents(path)
	if err == nil && len(documents) != 1 {
		err = fmt.Errorf("%s: it has no or more than one document: allowed: one component", path)
	}
	if err != nil {
		return "", p, fmt.Errorf("component file of --%s: %w", flag, err)
	}
	spec := documents[0].Spec
	var metadata []struct {
		Name         string
		Value        yaml.Node
		SecretKeyRef yaml.Node `yaml:"secretKeyRef"`
		EnvRef       yaml.Node `yaml:"envRef"`
	}
	if err := spec.Metadata.Decode(&metadata); err != nil {
		return "", p, fmt.Errorf("%s: %w", path, err)
	}
	properties := map[string]string{}
	for _, item := range metadata {
		switch {
		case !item.SecretKeyRef.IsZero() || !item.EnvRef.IsZero():
			return "", p, fmt.Errorf("%s: metadata %s is a reference: allowed: the value itself, in a copy of the file that only you can read", path, item.Name)
		case item.Value.Kind != 0 && item.Value.Kind != yaml.ScalarNode:
			return "", p, fmt.Errorf("%s: metadata %s: allowed: a single value", path, item.Name)
		}
		properties[item.Name] = item.Value.Value
	}
	switch spec.Type {
	case "state." + c.name:
		kind = sidecars.State
		p, err = component.StatePlace(properties)
	case "pubsub." + c.name:
		kind = sidecars.PubSub
		p, err = component.PubSubPlace(properties)
	default:
		err = fmt.Errorf("spec.type %q: allowed: state.%s, pubsub.%s", spec.Type, c.name, c.name)
	}
	if err != nil {
		return kind, p, fmt.Errorf("%s: %w", path, err)
	}
	return kind, p, nil
}
