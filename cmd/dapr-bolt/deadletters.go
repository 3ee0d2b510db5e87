package main

import (
	"context"
	"errors"
	"fmt"
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
)

func (c *cli) deadLettersCommand() *cobra.Command {
	cmd := c.family("dead-letters", "Look into the events that could not be delivered, send them again, or remove them", sidecars.PubSub, "list")
	cmd.Aliases = []string{"dead-letter"}
	cmd.AddCommand(c.listCommand(), c.groupsCommand(), c.showCommand(), c.redriveCommand(), c.purgeCommand(), c.jobsCommand(), c.stopJobCommand())
	return cmd
}

func (c *cli) listCommand() *cobra.Command {
	var (
		sel   selection
		after uint64
		limit int
		cmd   *cobra.Command
	)
	cmd = c.command("list", "List dead letters of all buckets, the oldest of each bucket first", func(ctx context.Context, _ []string) error {
		if sel.all && cmd.Flags().Changed("limit") {
			return usagef("there are --all and --limit: allowed: one of the two")
		}
		buckets, err := c.buckets(ctx)
		if err != nil {
			return err
		}
		if after > 0 && len(buckets) > 1 {
			return usagef("--after goes with --bucket, as ids are a bucket's own: allowed: %s", joined(buckets))
		}
		opts := c.listOptions(&sel)
		opts.After, opts.Limit, opts.Data = after, limit, c.output == outputJSON
		if sel.all {
			opts.Limit = 0
		}
		if c.output == outputJSON {
			return c.listJSON(ctx, buckets, opts)
		}
		return c.listTable(ctx, buckets, opts)
	})
	cmd.Long = `List dead letters of all buckets, the oldest of each bucket first. The last error is what Dapr was told; show prints
all of it. With --output json it prints one array of dead letters with their payloads; an array shorter than --limit is the
last page.`
	c.selectionFlags(cmd, &sel, "list all pages, not only the first")
	addFlag(cmd.Flags(), &after, "after", "id", "continue after this id", parseID)
	limitFlag(cmd, &limit)
	return cmd
}

func (c *cli) groupsCommand() *cobra.Command {
	var sel selection
	cmd := c.command("groups", "Count the dead letters of a bucket by what they died of", func(ctx context.Context, _ []string) error {
		groups, err := c.deadLetterGroups(ctx, c.listOptions(&sel))
		return show(c, groups, err, func(groups []admin.DeadLetterGroup) error {
			return list(c, "COUNT  TOPIC  GROUP  REASON  NEWEST  CAUSE", groups, "no dead letters", "", func(g *admin.DeadLetterGroup) []any {
				return []any{g.Count, g.Topic, g.Group, string(g.Reason), g.Newest, g.Cause}
			})
		})
	})
	cmd.Long = `Count the dead letters of a bucket by topic, group, reason and cause: the error without the numbers and ids that differ
from event to event. With --cause, the other commands take all of one row.`
	c.selectionFlags(cmd, &sel, "")
	if err := cmd.Flags().MarkHidden("all"); err != nil {
		panic(err)
	}
	return cmd
}

// deadLetterGroups adds page after page up.
func (c *cli) deadLetterGroups(ctx context.Context, opts admin.ListOptions) ([]admin.DeadLetterGroup, error) {
	all := []admin.DeadLetterGroup{}
	for {
		page, err := admin.CallDeadLetterGroups.Ask(ctx, c.client, opts)
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

func (c *cli) listTable(ctx context.Context, buckets []admin.Bucket, opts admin.ListOptions) error {
	var all []admin.DeadLetter
	next, unseen, err := c.eachPage(ctx, buckets, opts, func(letters []admin.DeadLetter) error {
		all = append(all, letters...)
		return nil
	})
	if err != nil {
		return err
	}
	err = list(c, "ID  BUCKET  TOPIC  GROUP  TIME  REASON  DELIVERIES  EVENT ID  LAST ERROR", all, "no dead letters", "", func(d *admin.DeadLetter) []any {
		return []any{d.ID, d.Bucket.String(), d.Topic, d.Group, d.Time, string(d.Reason), d.Deliveries, d.Event.ID, cause.Of(d.LastError)}
	})
	if err != nil || len(all) == 0 {
		return err
	}
	switch {
	case next != 0 && len(buckets) == 1:
		fmt.Fprintf(c.errOut, "there are more: --after %d lists the next page, --all all of them\n", next)
	case next != 0:
		fmt.Fprintln(c.errOut, "there are more: --all lists all of them, --bucket and --after page through one bucket")
	case len(unseen) > 0:
		fmt.Fprintf(c.errOut, "there may be more: --all lists all of them; not looked into: %s\n", joined(unseen))
	}
	return nil
}

// listJSON writes while it reads: all the payloads together may be larger than memory.
func (c *cli) listJSON(ctx context.Context, buckets []admin.Bucket, opts admin.ListOptions) error {
	separator := "["
	_, _, err := c.eachPage(ctx, buckets, opts, func(letters []admin.DeadLetter) error {
		for i := range letters {
			if err := c.printf("%s\n", separator); err != nil {
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
	return c.printf("%s]\n", strings.TrimPrefix(separator, ","))
}

func (c *cli) showCommand() *cobra.Command {
	return c.command("show ID", "Show one dead letter: the event, its payload, and every failed delivery", func(ctx context.Context, args []string) error {
		id, err := parseIDArg("ID", args[0])
		if err != nil {
			return err
		}
		d, err := admin.CallDeadLetter.Ask(ctx, c.client, admin.IDRequest{Bucket: c.bucket, ID: id})
		if refused, ok := errors.AsType[*admin.Error](err); ok && refused.Status == http.StatusNotFound {
			err = fmt.Errorf("%w%s", err, c.elsewhere(ctx))
		}
		return show(c, d, err, c.printDeadLetter)
	})
}

func (c *cli) printDeadLetter(d admin.DeadLetter) error {
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
	line("expires", c.when(d.Event.Expires))
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
	line("data", fmt.Sprintf("%s, %s", admin.ByteSize(d.Event.Size), d.Event.DataEncoding))
	data, err := readable(d.Event.Content)
	if err != nil {
		return err
	}
	return c.printf("%s\n%s\n", b.String(), data)
}

func (c *cli) redriveCommand() *cobra.Command {
	var sel selection
	cmd := c.command("redrive [ID...]", "Send dead letters back to their consumer groups", func(ctx context.Context, args []string) error {
		ids, err := c.chosen(ctx, &sel, args)
		if err != nil {
			return err
		}
		result := admin.RedriveResult{Redriven: []uint64{}}
		done, err := c.inSteps(ctx, &sel, ids, "sent back", func(request admin.IDsRequest) (int, error) {
			step, err := admin.CallRedrive.Ask(ctx, c.client, request)
			result.Redriven = append(result.Redriven, step.Redriven...)
			result.Unreadable = append(result.Unreadable, step.Unreadable...)
			return len(step.Redriven), err
		})
		if err == nil {
			err = c.say(result, "%s\n", done)
		}
		if err != nil {
			return err
		}
		unreadable := unreadable(result.Unreadable)
		if !sel.all {
			return errors.Join(unreadable, c.missing(ctx, ids, append(result.Redriven, result.Unreadable...)))
		}
		if unreadable != nil {
			fmt.Fprintf(c.errOut, "skipped: %s\n", unreadable)
		}
		return nil
	})
	cmd.Long = `Send dead letters back to their consumer groups, at the end of the order and with the count of deliveries
reset. Name them by ID, or take --all and, if need be, filters.`
	c.changeFlags(cmd, &sel)
	return cmd
}

func (c *cli) purgeCommand() *cobra.Command {
	var sel selection
	cmd := c.command("purge [ID...]", "Remove dead letters for good", func(ctx context.Context, args []string) error {
		ids, err := c.chosen(ctx, &sel, args)
		if err == nil && len(ids) > 0 {
			err = c.confirm("Remove %s for good?", deadLetters(len(ids)))
		}
		if err != nil {
			return err
		}
		var result admin.PurgeResult
		done, err := c.inSteps(ctx, &sel, ids, "removed", func(request admin.IDsRequest) (int, error) {
			step, err := admin.CallPurge.Ask(ctx, c.client, request)
			result.Purged += step.Purged
			return step.Purged, err
		})
		if err == nil {
			err = c.say(result, "%s\n", done)
		}
		if err == nil && !sel.all && result.Purged < len(ids) {
			err = fmt.Errorf("%d of the %d IDs were not among the dead letters", len(ids)-result.Purged, len(ids))
		}
		return err
	})
	cmd.Long = `Remove dead letters for good. Name them by ID, or take --all and, if need be, filters. It asks first.`
	c.changeFlags(cmd, &sel)
	c.yesFlag(cmd)
	return cmd
}

func deadLetters(n int) string { return count(n, "dead letter", "dead letters") }

// changeFlags are those of commands that change what they select.
func (c *cli) changeFlags(cmd *cobra.Command, sel *selection) {
	c.selectionFlags(cmd, sel, "all that the filters select")
	addFlag(cmd.Flags(), &sel.rate, "rate", "count/unit", "that many at most, such as 10/s, 30/m or 100/h", parseRate)
}

// inSteps calls do, which returns how many it has dealt with, with one part of ids after the other, at most sel.rate of them in
// a second (0: as fast as it goes). It says what was done, or how much of it before it failed.
func (c *cli) inSteps(ctx context.Context, sel *selection, ids []uint64, what string, do func(admin.IDsRequest) (int, error)) (done string, err error) {
	step, total := admin.MaxIDs, 0
	if sel.rate > 0 {
		step = min(step, max(1, int(sel.rate)))
	}
	for at := 0; at < len(ids) && err == nil; at += step {
		if sel.rate > 0 && at > 0 {
			err = c.wait(ctx, time.Duration(float64(step)/sel.rate*float64(time.Second)))
		}
		if err == nil {
			var n int
			n, err = do(admin.IDsRequest{Bucket: c.bucket, IDs: ids[at:min(at+step, len(ids))]})
			total += n
		}
	}
	if err != nil {
		return "", fmt.Errorf("%s of %d %s: %w", deadLetters(total), len(ids), what, err)
	}
	return deadLetters(total) + " " + what, nil
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
	return fmt.Errorf("cannot be redriven, as what is stored of the event cannot be read: %s: allowed: show and purge", joined(ids))
}

func (c *cli) missing(ctx context.Context, ids, found []uint64) error {
	gone := slices.DeleteFunc(slices.Clone(ids), func(id uint64) bool { return slices.Contains(found, id) })
	if len(gone) == 0 {
		return nil
	}
	return fmt.Errorf("not among the dead letters of bucket %s: %s%s", c.bucket, joined(gone), c.elsewhere(ctx))
}

// elsewhere says which buckets an id may be of, if the flags named none and there are several.
func (c *cli) elsewhere(ctx context.Context) string {
	if c.bucket != (admin.Bucket{}) {
		return ""
	}
	buckets, err := admin.CallBuckets.Ask(ctx, c.client, admin.Empty{})
	if err != nil || len(buckets.Buckets) < 2 {
		return ""
	}
	return ": allowed with --bucket, and --database before a slash: " + joined(buckets.Buckets)
}

func joined[T any](items []T) string {
	texts := make([]string, len(items))
	for i, item := range items {
		texts[i] = fmt.Sprint(item)
	}
	return strings.Join(texts, ", ")
}
