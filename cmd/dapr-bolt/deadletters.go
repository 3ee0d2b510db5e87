package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/dapr-bolt/dapr-bolt/internal/admin"
	"github.com/dapr-bolt/dapr-bolt/internal/cause"
	"github.com/dapr-bolt/dapr-bolt/internal/sidecars"
	"github.com/dapr-bolt/dapr-bolt/pubsub"
)

func (c *cli) deadLettersCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "dead-letters",
		Aliases: []string{"dead-letter"},
		Short:   "Look into the events that could not be delivered, send them again, or remove them",
		Args:    subcommandArgs,
		RunE:    needsSubcommand,
	}
	c.outputFlag(cmd, cmd.PersistentFlags())
	c.bucketFlags(cmd, sidecars.PubSub, "list")
	cmd.AddCommand(c.listCommand(), c.groupsCommand(), c.showCommand(), c.redriveCommand(), c.purgeCommand(), c.jobsCommand(), c.stopJobCommand())
	return cmd
}

func (c *cli) listCommand() *cobra.Command {
	var (
		sel   selection
		after uint64
		limit = pubsub.DefaultPageSize
	)
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List dead letters of all buckets, the oldest of each bucket first",
		Long: `List dead letters of all buckets, the oldest of each bucket first. The last error is what Dapr was told; show prints
all of it. With --output json it prints one array of dead letters with their payloads; an array shorter than --limit is the
last page.`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if sel.all && cmd.Flags().Changed("limit") {
				return usagef("there are --all and --limit: allowed: one of the two")
			}
			return c.withClient(func(client *admin.Client) error {
				buckets, err := c.buckets(cmd.Context(), client)
				if err != nil {
					return err
				}
				if after > 0 && len(buckets) > 1 {
					return usagef("--after goes with --bucket, as ids are a bucket's own: allowed: %s", bucketNames(buckets))
				}
				opts := c.listOptions(&sel)
				opts.After, opts.Limit, opts.Data = after, limit, c.output == outputJSON
				if sel.all {
					opts.Limit = 0
				}
				if c.output == outputJSON {
					return c.listJSON(cmd.Context(), client, buckets, opts)
				}
				return c.listTable(cmd.Context(), client, buckets, opts)
			})
		},
	}
	c.selectionFlags(cmd, &sel, "list all pages, not only the first")
	addFlag(cmd.Flags(), &after, "after", "", "id", "continue after this id", parseID)
	addFlag(cmd.Flags(), &limit, "limit", strconv.Itoa(limit), "count", "how many to list at most", parseLimit)
	return cmd
}

func (c *cli) groupsCommand() *cobra.Command {
	var sel selection
	cmd := &cobra.Command{
		Use:   "groups",
		Short: "Count the dead letters of a bucket by what they died of",
		Long: `Count the dead letters of a bucket by topic, group, reason and cause: the error without the numbers and ids that differ
from event to event. With --cause, the other commands take all of one row.`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			all := func(client *admin.Client) ([]admin.DeadLetterGroup, error) {
				return deadLetterGroups(cmd.Context(), client, c.listOptions(&sel))
			}
			return learn(c, all, func(groups []admin.DeadLetterGroup) error {
				var rows [][]cell
				for _, g := range groups {
					rows = append(rows, []cell{numberCell(g.Count), textCell(g.Topic), textCell(g.Group), textCell(string(g.Reason)), c.timeCell(g.Newest), textCell(g.Cause)})
				}
				return c.printPage([]string{"COUNT", "TOPIC", "GROUP", "REASON", "NEWEST", "CAUSE"}, rows, "no dead letters", "")
			})
		},
	}
	c.selectionFlags(cmd, &sel, "")
	if err := cmd.Flags().MarkHidden("all"); err != nil {
		panic(err)
	}
	return cmd
}

// deadLetterGroups adds page after page up.
func deadLetterGroups(ctx context.Context, client *admin.Client, opts admin.ListOptions) ([]admin.DeadLetterGroup, error) {
	all := []admin.DeadLetterGroup{}
	for {
		page, err := admin.CallDeadLetterGroups.Ask(ctx, client, opts)
		if err != nil {
			return nil, err
		}
		for _, g := range page.Groups {
			same := func(other admin.DeadLetterGroup) bool {
				return other.Topic == g.Topic && other.Group == g.Group && other.Reason == g.Reason && other.Cause == g.Cause
			}
			if at := slices.IndexFunc(all, same); at >= 0 {
				all[at].Count += g.Count
				all[at].Last, all[at].Newest, all[at].LastError = g.Last, g.Newest, g.LastError
			} else {
				all = append(all, g)
			}
		}
		if opts.After = page.Next; opts.After == 0 {
			slices.SortStableFunc(all, func(a, b admin.DeadLetterGroup) int { return b.Count - a.Count })
			return all, nil
		}
	}
}

func (c *cli) listTable(ctx context.Context, client *admin.Client, buckets []admin.Bucket, opts admin.ListOptions) error {
	var rows [][]cell
	next, unseen, err := eachPage(ctx, client, buckets, opts, func(letters []admin.DeadLetter) error {
		for i := range letters {
			d := &letters[i]
			rows = append(rows, []cell{
				numberCell(d.ID),
				textCell(d.Bucket.String()),
				textCell(d.Topic),
				textCell(d.Group),
				c.timeCell(d.Time),
				textCell(string(d.Reason)),
				numberCell(d.Deliveries),
				textCell(d.Event.ID),
				textCell(cause.Of(d.LastError)),
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
	if err := c.printTable([]string{"ID", "BUCKET", "TOPIC", "GROUP", "TIME", "REASON", "DELIVERIES", "EVENT ID", "LAST ERROR"}, rows); err != nil {
		return err
	}
	switch {
	case next != 0 && len(buckets) == 1:
		fmt.Fprintf(c.errOut, "there are more: --after %d lists the next page, --all all of them\n", next)
	case next != 0:
		fmt.Fprintln(c.errOut, "there are more: --all lists all of them, --bucket and --after page through one bucket")
	case len(unseen) > 0:
		fmt.Fprintf(c.errOut, "there may be more: --all lists all of them; not looked into: %s\n", bucketNames(unseen))
	}
	return nil
}

// listJSON writes while it reads: all the payloads together may be larger than memory.
func (c *cli) listJSON(ctx context.Context, client *admin.Client, buckets []admin.Bucket, opts admin.ListOptions) error {
	separator := "["
	_, _, err := eachPage(ctx, client, buckets, opts, func(letters []admin.DeadLetter) error {
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

		ValidArgsFunction: c.completeIDs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			ids, err := parseIDs(args)
			if err != nil {
				return err
			}
			find := func(client *admin.Client) (admin.DeadLetter, error) {
				d, err := admin.CallDeadLetter.Ask(cmd.Context(), client, admin.IDRequest{Bucket: c.bucket, ID: ids[0]})
				var refused *admin.Error
				if errors.As(err, &refused) && refused.Status == http.StatusNotFound {
					err = fmt.Errorf("%w%s", err, c.elsewhere(cmd.Context(), client))
				}
				return d, err
			}
			return learn(c, find, func(d admin.DeadLetter) error { return c.printDeadLetter(&d) })
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
	line("bucket", d.Bucket.String())
	line("topic", d.Topic)
	line("group", d.Group)
	line("reason", string(d.Reason))
	line("time", c.when(d.Time))
	line("deliveries", strconv.Itoa(d.Deliveries))
	line("redriven", strconv.Itoa(d.Redriven))
	line("event id", d.Event.ID)
	line("sequence", strconv.FormatUint(d.Event.Sequence, 10))
	line("published", c.when(d.Event.PublishTime))
	if d.Event.Expires != nil {
		line("expires", c.when(*d.Event.Expires))
	}
	line("partition key", d.Event.PartitionKey)
	line("unreadable", d.Event.Unreadable)
	line("content type", d.Event.ContentType)
	for _, key := range slices.Sorted(maps.Keys(d.Event.Metadata)) {
		line("metadata", key+"="+d.Event.Metadata[key])
	}
	// The oldest may be missing. Interruptions are attempts, too, and no deliveries.
	before := max(d.Deliveries-len(d.Attempts), 0)
	for i, a := range d.Attempts {
		line(fmt.Sprintf("attempt %d", before+i+1), c.when(a.At)+" "+a.Error)
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

func (c *cli) redriveCommand() *cobra.Command {
	var (
		sel  selection
		rate float64
	)
	cmd := &cobra.Command{
		Use:   "redrive [ID...]",
		Short: "Send dead letters back to their consumer groups",
		Long: `Send dead letters back to their consumer groups, at the end of the order and with the count of deliveries
reset. Name them by ID, or take --all and, if need be, filters.`,
		ValidArgsFunction: c.completeIDs(0),
		RunE: func(cmd *cobra.Command, args []string) error {
			return c.withClient(func(client *admin.Client) error {
				ids, err := c.chosen(cmd.Context(), client, &sel, args)
				if err != nil {
					return err
				}
				result := admin.RedriveResult{Redriven: []uint64{}}
				err = c.inSteps(cmd.Context(), ids, rate, func(request admin.IDsRequest) error {
					step, err := admin.CallRedrive.Ask(cmd.Context(), client, request)
					result.Redriven = append(result.Redriven, step.Redriven...)
					result.Unreadable = append(result.Unreadable, step.Unreadable...)
					return err
				})
				done := count(len(result.Redriven), "dead letter", "dead letters")
				if err != nil {
					return fmt.Errorf("%s of %d sent back: %w", done, len(ids), err)
				}
				if err := c.say(result, "%s sent back\n", done); err != nil {
					return err
				}
				unreadable := unreadable(result.Unreadable)
				if sel.all {
					if unreadable != nil {
						fmt.Fprintf(c.errOut, "skipped: %s\n", unreadable)
					}
					return nil
				}
				return errors.Join(unreadable, c.missing(cmd.Context(), client, ids, append(result.Redriven, result.Unreadable...)))
			})
		},
	}
	c.selectionFlags(cmd, &sel, "all that the filters select")
	rateFlag(cmd, &rate)
	return cmd
}

func rateFlag(cmd *cobra.Command, rate *float64) {
	addFlag(cmd.Flags(), rate, "rate", "", "count/unit", "that many at most, such as 10/s, 30/m or 100/h", parseRate)
}

// inSteps calls do with one part of ids after the other, at most rate of them in a second (0: as fast as it goes).
func (c *cli) inSteps(ctx context.Context, ids []uint64, rate float64, do func(admin.IDsRequest) error) error {
	step := admin.MaxIDs
	if rate > 0 {
		step = min(step, max(1, int(rate)))
	}
	first := true
	for batch := range slices.Chunk(ids, step) {
		if rate > 0 && !first {
			if err := c.wait(ctx, time.Duration(float64(step)/rate*float64(time.Second))); err != nil {
				return err
			}
		}
		first = false
		if err := do(admin.IDsRequest{Bucket: c.bucket, IDs: batch}); err != nil {
			return err
		}
	}
	return nil
}

func (c *cli) wait(ctx context.Context, d time.Duration) error {
	timer := c.clock.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.Chan():
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// unreadable says that ids cannot be sent back; nil if there are none.
func unreadable(ids []uint64) error {
	if len(ids) == 0 {
		return nil
	}
	return fmt.Errorf("cannot be redriven, as what is stored of the event cannot be read: %s: allowed: show and purge", list(ids))
}

func (c *cli) missing(ctx context.Context, client *admin.Client, ids, found []uint64) error {
	gone := slices.DeleteFunc(slices.Clone(ids), func(id uint64) bool { return slices.Contains(found, id) })
	if len(gone) == 0 {
		return nil
	}
	return fmt.Errorf("not among the dead letters of bucket %s: %s%s", c.bucket, list(gone), c.elsewhere(ctx, client))
}

// elsewhere says which buckets an id may be of, if the flags named none and there are several.
func (c *cli) elsewhere(ctx context.Context, client *admin.Client) string {
	if c.bucket != (admin.Bucket{}) {
		return ""
	}
	buckets, err := admin.CallBuckets.Ask(ctx, client, admin.Empty{})
	if err != nil || len(buckets.Buckets) < 2 {
		return ""
	}
	return ": allowed with --bucket, and --database before a slash: " + bucketNames(buckets.Buckets)
}

func list(ids []uint64) string {
	texts := make([]string, len(ids))
	for i, id := range ids {
		texts[i] = strconv.FormatUint(id, 10)
	}
	return strings.Join(texts, ", ")
}

func (c *cli) purgeCommand() *cobra.Command {
	var (
		sel  selection
		rate float64
		yes  bool
	)
	cmd := &cobra.Command{
		Use:               "purge [ID...]",
		Short:             "Remove dead letters for good",
		Long:              `Remove dead letters for good. Name them by ID, or take --all and, if need be, filters. It asks first.`,
		ValidArgsFunction: c.completeIDs(0),
		RunE: func(cmd *cobra.Command, args []string) error {
			return c.withClient(func(client *admin.Client) error {
				ids, err := c.chosen(cmd.Context(), client, &sel, args)
				if err != nil {
					return err
				}
				if !yes && len(ids) > 0 {
					if err := c.confirm(fmt.Sprintf("Remove %s for good?", count(len(ids), "dead letter", "dead letters"))); err != nil {
						return err
					}
				}
				purged := 0
				err = c.inSteps(cmd.Context(), ids, rate, func(request admin.IDsRequest) error {
					step, err := admin.CallPurge.Ask(cmd.Context(), client, request)
					purged += step.Purged
					return err
				})
				if err != nil {
					return fmt.Errorf("%s of %d removed: %w", count(purged, "dead letter", "dead letters"), len(ids), err)
				}
				err = c.say(admin.PurgeResult{Purged: purged}, "%s removed\n", count(purged, "dead letter", "dead letters"))
				if err == nil && !sel.all && purged < len(ids) {
					err = fmt.Errorf("%d of the %d IDs were not among the dead letters", len(ids)-purged, len(ids))
				}
				return err
			})
		},
	}
	c.selectionFlags(cmd, &sel, "all that the filters select")
	rateFlag(cmd, &rate)
	cmd.Flags().BoolVar(&yes, "yes", false, "do not ask")
	return cmd
}
