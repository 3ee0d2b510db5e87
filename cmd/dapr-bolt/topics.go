package main

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/dapr-bolt/dapr-bolt/internal/admin"
	"github.com/dapr-bolt/dapr-bolt/internal/sidecars"
	"github.com/dapr-bolt/dapr-bolt/pubsub"
)

// clearScreen puts what is printed next at the top of the terminal.
const clearScreen = "\x1b[H\x1b[J"

func (c *cli) topicsCommand() *cobra.Command {
	var every time.Duration
	cmd := c.command("topics", "Show what the topics of all buckets hold and what consumer groups are owed", func(ctx context.Context, _ []string) error {
		if every == 0 {
			return c.showTopics(ctx)
		}
		return c.watchTopics(ctx, every)
	})
	cmd.Args = subcommandArgs
	c.outputFlag(cmd, cmd.PersistentFlags())
	c.bucketFlags(cmd, sidecars.PubSub, "topics")
	addFlag(cmd.Flags(), &every, "watch", "interval", "show it again at this interval until Ctrl-C", parseInterval).NoOptDefVal = "2s"
	cmd.AddCommand(c.topicShowCommand(), c.topicEventsCommand(), c.topicEventCommand(), c.topicWatchCommand(), c.topicRemoveCommand(), c.removeGroupCommand())
	return cmd
}

func (c *cli) watchTopics(ctx context.Context, every time.Duration) error {
	for {
		if c.width() > 0 && c.output == outputText {
			if _, err := io.WriteString(c.out, clearScreen); err != nil {
				return err
			}
		}
		err := c.showTopics(ctx)
		if err == nil {
			err = c.wait(ctx, every)
		}
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

func (c *cli) showTopics(ctx context.Context) error {
	topics, err := c.allTopics(ctx, c.bucket)
	c.sayMissing(topics.Missing)
	return show(c, topics.Topics, err, c.printTopicTables)
}

// allTopics reads page after page.
func (c *cli) allTopics(ctx context.Context, bucket admin.Bucket) (all admin.Topics, err error) {
	request := admin.TopicsRequest{Bucket: bucket, Limit: admin.MaxPageSize}
	for {
		page, err := admin.CallTopics.Ask(ctx, c.client, request)
		if err != nil {
			return all, err
		}
		all.Topics, all.Missing = append(all.Topics, page.Topics...), page.Missing
		if request.After = page.Next; request.After == "" {
			return all, nil
		}
	}
}

// printTopicTables prints what topics hold, and what groups are owed, with their buckets unless all are in the default one.
func (c *cli) printTopicTables(topics []admin.TopicStats) error {
	only := !slices.ContainsFunc(topics, func(t admin.TopicStats) bool { return t.Bucket.String() != (admin.Bucket{}).String() })
	held, owed, first := "BUCKET  TOPIC  STORED  DELAYED  SIZE  OLDEST  DUPLICATES", "BUCKET  TOPIC  GROUP  WAITING  IN FLIGHT  RETRYING  OLDEST  DEAD  EXPIRED  STREAMS", 0
	if only {
		held, owed, first = strings.TrimPrefix(held, "BUCKET  "), strings.TrimPrefix(owed, "BUCKET  "), 1
	}
	var groups [][]any
	for _, t := range topics {
		for _, g := range t.Groups {
			row := []any{t.Bucket.String(), t.Topic, g.Group, g.Waiting, g.InFlight, g.Retrying, g.OldestTime, g.Dead, g.Expired, g.Streams}
			groups = append(groups, row[first:])
		}
	}
	err := list(c, held, topics, "no topics", "", func(t *admin.TopicStats) []any {
		return []any{t.Bucket.String(), t.Topic, t.Stored, t.Delayed, size(t.Bytes), t.OldestTime, t.Duplicates}[first:]
	})
	if err != nil || len(groups) == 0 {
		return err
	}
	fmt.Fprintln(c.out)
	return c.printTable(owed, groups)
}

func (c *cli) removeGroupCommand() *cobra.Command {
	cmd := c.command("remove-group TOPIC GROUP", "End a consumer group that left for good", func(ctx context.Context, args []string) error {
		topic, group, loss := args[0], args[1], ""
		// The groups of a pattern are not among the topics.
		if !strings.ContainsAny(topic, "*>") {
			g, err := c.findGroup(ctx, topic, group)
			if err != nil {
				return err
			}
			loss = fmt.Sprintf(", with %s that it is owed and %s", count(g.Waiting+g.InFlight+g.Retrying, "event", "events"), count(g.Dead, "dead letter", "dead letters"))
		}
		if err := c.confirm("Remove group %q of topic %q%s?", group, topic, loss); err != nil {
			return err
		}
		return do(ctx, c, admin.CallRemoveGroup, admin.GroupRequest{Bucket: c.bucket, Topic: topic, Group: group},
			map[string]string{"topic": topic, "group": group}, "group %q of topic %q removed\n", group, topic)
	})
	cmd.Long = `End a consumer group that left for good: what it was still owed of the topic and its dead letters are
forgotten. A group that consumes now is refused. It says what that is, and asks.

A group that subscribed with a wildcard is owed every topic that comes up and matches: name the pattern as TOPIC to
end that.`
	c.yesFlag(cmd)
	return cmd
}

// findGroup returns what a group of the bucket that commands change is owed, or an error that says what there is.
func (c *cli) findGroup(ctx context.Context, topic, group string) (found pubsub.GroupStats, err error) {
	bucket := c.bucket.WithDefaults()
	topics, err := c.allTopics(ctx, bucket)
	if err != nil {
		return found, err
	}
	var names []string
	for _, t := range topics.Topics {
		if t.Topic != topic {
			names = append(names, t.Topic)
			continue
		}
		if i := slices.IndexFunc(t.Groups, func(g pubsub.GroupStats) bool { return g.Group == group }); i >= 0 {
			return t.Groups[i], nil
		}
		return found, fmt.Errorf("topic %q has no group %q: there is %s", topic, group, listed(groupsOf(&t, nil)))
	}
	return found, fmt.Errorf("bucket %s has no topic %q: there is %s", bucket, topic, listed(names))
}

func listed(names []string) string {
	return cmp.Or(strings.Join(names, ", "), "none")
}
