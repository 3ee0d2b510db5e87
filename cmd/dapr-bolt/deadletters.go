package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/dapr-bolt/dapr-bolt/internal/admin"
	"github.com/dapr-bolt/dapr-bolt/pubsub"
)

func (c *cli) deadLettersCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "dead-letters",
		Aliases: []string{"dead-letter"},
		Short:   "Look into the events that could not be delivered, send them again, or remove them",
		Args:    noArgs,
		RunE:    needsSubcommand,
	}
	shared := cmd.PersistentFlags()
	c.outputFlag(shared)
	c.databaseFlag(shared)
	c.bucketFlag(shared)
	cmd.AddCommand(c.listCommand(), c.showCommand(), c.redriveCommand(), c.purgeCommand())
	return cmd
}

// needsSubcommand answers a command that does nothing by itself.
func needsSubcommand(cmd *cobra.Command, _ []string) error {
	var names []string
	for _, sub := range cmd.Commands() {
		if sub.IsAvailableCommand() {
			names = append(names, sub.Name())
		}
	}
	return usagef("%s needs a subcommand: allowed: %s", cmd.CommandPath(), strings.Join(names, ", "))
}

// selection is which dead letters a command works on.
type selection struct {
	topic, group, text string
	since              time.Time
	all                bool
}

func (c *cli) selectionFlags(flags *pflag.FlagSet, s *selection, all string) {
	flags.SortFlags = false
	flags.StringVar(&s.topic, "topic", "", "only those of this topic")
	flags.StringVar(&s.group, "group", "", "only those of this consumer group")
	addFlag(flags, &s.since, "since", "", "time", "only those that died since then: a duration such as 24h, or an RFC 3339 time", parseSince(c.clock))
	flags.StringVar(&s.text, "text", "", "only those whose payload, event id or errors hold this text")
	flags.BoolVar(&s.all, "all", false, all)
}

func (s *selection) filtered() bool {
	return s.topic != "" || s.group != "" || s.text != "" || !s.since.IsZero()
}

func (c *cli) listOptions(s *selection) admin.ListOptions {
	return admin.ListOptions{Scope: c.scope(), Topic: s.topic, Group: s.group, Since: s.since, Text: s.text}
}

func (c *cli) listCommand() *cobra.Command {
	var (
		sel   selection
		after uint64
		limit = pubsub.DefaultPageSize
	)
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List dead letters, the oldest first",
		Long: `List dead letters, the oldest first. With --output json it prints one array of dead letters with their
payloads; an array shorter than --limit is the last page.`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if sel.all && cmd.Flags().Changed("limit") {
				return usagef("there are --all and --limit: allowed: one of the two")
			}
			return c.withClient(func(client *admin.Client) error {
				opts := c.listOptions(&sel)
				opts.After, opts.Limit, opts.Data = after, limit, c.output == outputJSON
				if sel.all {
					opts.Limit = 0
				}
				if c.output == outputJSON {
					return c.listJSON(cmd.Context(), client, opts)
				}
				return c.listTable(cmd.Context(), client, opts)
			})
		},
	}
	c.selectionFlags(cmd.Flags(), &sel, "list all pages, not only the first")
	addFlag(cmd.Flags(), &after, "after", "", "id", "continue after this id", parseID)
	addFlag(cmd.Flags(), &limit, "limit", strconv.Itoa(limit), "count", "how many to list at most", parseLimit)
	return cmd
}

// eachPage calls fn with page after page until opts.Limit dead letters were seen (0: all of them), and returns what to
// continue after, or 0 when none are left.
func eachPage(ctx context.Context, client *admin.Client, opts admin.ListOptions, fn func([]admin.DeadLetter) error) (next uint64, err error) {
	left := opts.Limit
	for {
		opts.Limit = admin.MaxPageSize
		if left > 0 {
			opts.Limit = left
		}
		page, err := client.DeadLetters(ctx, opts)
		if err != nil {
			return 0, err
		}
		if err := fn(page.DeadLetters); err != nil {
			return 0, err
		}
		if left > 0 {
			if left -= len(page.DeadLetters); left == 0 {
				return page.Next, nil
			}
		}
		if page.Next == 0 {
			return 0, nil
		}
		opts.After = page.Next
	}
}

func (c *cli) listTable(ctx context.Context, client *admin.Client, opts admin.ListOptions) error {
	var rows [][]string
	next, err := eachPage(ctx, client, opts, func(letters []admin.DeadLetter) error {
		for i := range letters {
			d := &letters[i]
			rows = append(rows, []string{
				strconv.FormatUint(d.ID, 10),
				cell(d.Topic, 40),
				cell(d.Group, 40),
				cell(timestamp(d.Time), 40),
				string(d.Reason),
				strconv.Itoa(d.Deliveries),
				cell(d.Event.ID, 40),
				cell(d.LastError, 60),
			})
		}
		return nil
	})
	if err != nil {
		return err
	}
	if len(rows) == 0 {
		_, err := fmt.Fprintln(c.errOut, "no dead letters")
		return err
	}
	if err := c.printTable([]string{"ID", "TOPIC", "GROUP", "TIME", "REASON", "DELIVERIES", "EVENT ID", "LAST ERROR"}, rows); err != nil {
		return err
	}
	if next != 0 {
		fmt.Fprintf(c.errOut, "there are more: --after %d lists the next page, --all all of them\n", next)
	}
	return nil
}

// listJSON writes while it reads: all the payloads together may be larger than memory.
func (c *cli) listJSON(ctx context.Context, client *admin.Client, opts admin.ListOptions) error {
	separator := "["
	_, err := eachPage(ctx, client, opts, func(letters []admin.DeadLetter) error {
		for i := range letters {
			if _, err := io.WriteString(c.out, separator+"\n"); err != nil {
				return err
			}
			separator = ","
			if err := c.printJSON(&letters[i]); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	end := "]\n"
	if separator == "[" {
		end = "[]\n"
	}
	_, err = io.WriteString(c.out, end)
	return err
}

func (c *cli) showCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "show ID",
		Short: "Show one dead letter: the event, its payload, and every failed delivery",
		Args:  exactArgs("ID"),
		RunE: func(cmd *cobra.Command, args []string) error {
			ids, err := parseIDs(args)
			if err != nil {
				return err
			}
			return c.withClient(func(client *admin.Client) error {
				d, err := client.DeadLetter(cmd.Context(), c.scope(), ids[0])
				if err != nil {
					return err
				}
				if c.output == outputJSON {
					return c.printJSON(d)
				}
				return c.printDeadLetter(&d)
			})
		},
	}
}

func (c *cli) printDeadLetter(d *admin.DeadLetter) error {
	var b strings.Builder
	line := func(name, value string) {
		if value != "" {
			fmt.Fprintf(&b, "%-14s %s\n", name, strings.ReplaceAll(harmless(value), "\n", "\n               "))
		}
	}
	line("id", strconv.FormatUint(d.ID, 10))
	line("topic", d.Topic)
	line("group", d.Group)
	line("reason", string(d.Reason))
	line("time", timestamp(d.Time))
	line("deliveries", strconv.Itoa(d.Deliveries))
	line("redriven", strconv.Itoa(d.Redriven))
	line("event id", d.Event.ID)
	line("sequence", strconv.FormatUint(d.Event.Sequence, 10))
	line("published", timestamp(d.Event.PublishTime))
	if d.Event.Expires != nil {
		line("expires", timestamp(*d.Event.Expires))
	}
	line("partition key", d.Event.PartitionKey)
	line("unreadable", d.Event.Unreadable)
	line("content type", d.Event.ContentType)
	keys := make([]string, 0, len(d.Event.Metadata))
	for key := range d.Event.Metadata {
		keys = append(keys, key)
	}
	slices.Sort(keys)
	for _, key := range keys {
		line("metadata", key+"="+d.Event.Metadata[key])
	}
	// The oldest may be missing. Interruptions are attempts, too, and no deliveries.
	before := max(d.Deliveries-len(d.Attempts), 0)
	for i, a := range d.Attempts {
		line(fmt.Sprintf("attempt %d", before+i+1), timestamp(a.At)+" "+a.Error)
	}
	line("data", fmt.Sprintf("%s, %s", byteSize(int64(d.Event.Size)), d.Event.DataEncoding))
	data, err := readable(&d.Event)
	if err != nil {
		return err
	}
	fmt.Fprintf(&b, "\n%s\n", data)
	_, err = io.WriteString(c.out, b.String())
	return err
}

// readable lays JSON out, leaves text as it is, and shows anything else in base64.
func readable(e *admin.Event) (string, error) {
	if e.DataEncoding == admin.DataJSON {
		var laidOut bytes.Buffer
		err := json.Indent(&laidOut, e.Data, "", "  ")
		return harmless(laidOut.String()), err
	}
	var text string
	err := json.Unmarshal(e.Data, &text)
	return harmless(text), err
}

func parseIDs(args []string) ([]uint64, error) {
	var ids []uint64
	for _, arg := range args {
		id, err := parseID(arg)
		if err != nil {
			return nil, usagef("invalid ID %q: %w", arg, err)
		}
		if !slices.Contains(ids, id) {
			ids = append(ids, id)
		}
	}
	return ids, nil
}

// chosen returns the ids that the command line names, by themselves or by --all and the filters. Those are read before
// anything is changed: what dies again while a command runs is not for that run.
func (c *cli) chosen(ctx context.Context, client *admin.Client, sel *selection, args []string) ([]uint64, error) {
	switch {
	case sel.all && len(args) > 0:
		return nil, usagef("there are IDs and --all: allowed: one of the two")
	case sel.all:
		var ids []uint64
		_, err := eachPage(ctx, client, c.listOptions(sel), func(letters []admin.DeadLetter) error {
			for i := range letters {
				ids = append(ids, letters[i].ID)
			}
			return nil
		})
		return ids, err
	case sel.filtered():
		return nil, usagef("--topic, --group, --since and --text go with --all")
	case len(args) == 0:
		return nil, usagef("nothing is named: allowed: one ID or more, or --all")
	}
	return parseIDs(args)
}
