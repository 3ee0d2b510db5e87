package main

import (
	"context"
	"errors"
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
	cmd := &cobra.Command{
		Use:   "topics",
		Short: "Show what the topics of all buckets hold and what consumer groups are owed",
		Args:  subcommandArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return c.withClient(func(client *admin.Client) error {
				if every == 0 {
					return c.showTopics(cmd.Context(), client)
				}
				return c.watchTopics(cmd.Context(), client, every)
			})
		},
	}
	c.outputFlag(cmd, cmd.PersistentFlags())
	c.bucketFlags(cmd, sidecars.PubSub, "topics")
	addFlag(cmd.Flags(), &every, "watch", "", "interval", "show it again at this interval until Ctrl-C", parseInterval)
	cmd.Flags().Lookup("watch").NoOptDefVal = "2s"
	cmd.AddCommand(c.topicShowCommand(), c.topicEventsCommand(), c.topicEventCommand(), c.topicWatchCommand(), c.topicRemoveCommand(), c.removeGroupCommand())
	return cmd
}

func parseInterval(text string) (time.Duration, error) {
	d, err := time.ParseDuration(text)
	if err != nil || d < 100*time.Millisecond {
		return 0, errors.New("allowed: a duration of at least 100ms, such as 2s")
	}
	return d, nil
}

func (c *cli) watchTopics(ctx context.Context, client *admin.Client, every time.Duration) error {
	for {
		if c.width() > 0 && c.output == outputText {
			if _, err := io.WriteString(c.out, clearScreen); err != nil {
				return err
			}
		}
		err := c.showTopics(ctx, client)
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

func (c *cli) showTopics(ctx context.Context, client *admin.Client) error {
	topics, err := allTopics(ctx, client, c.bucket)
	if err != nil {
		return err
	}
	c.sayMissing(topics.Missing)
	if c.output == outputJSON {
		return c.printJSON(topics.Topics)
	}
	if len(topics.Topics) == 0 {
		_, err := fmt.Fprintln(c.errOut, "no topics")
		return err
	}
	return c.printTopicTables(topics.Topics)
}

// allTopics reads page after page.
func allTopics(ctx context.Context, client *admin.Client, bucket admin.Bucket) (all admin.Topics, err error) {
	request := admin.TopicsRequest{Bucket: bucket, Limit: admin.MaxPageSize}
	for {
		page, err := admin.CallTopics.Ask(ctx, client, request)
		if err != nil {
			return all, err
		}
		all.Topics, all.Missing = append(all.Topics, page.Topics...), page.Missing
		if request.After = page.Next; request.After == "" {
			return all, nil
		}
	}
}

// printTopicTables prints what topics hold, and what groups are owed.
func (c *cli) printTopicTables(topics []admin.TopicStats) error {
	oldest := func(t *time.Time) cell {
		if t == nil {
			return c.timeCell(time.Time{})
		}
		return c.timeCell(*t)
	}
	var held, owed [][]cell
	for _, t := range topics {
		of := []cell{textCell(t.Bucket.String()), textCell(t.Topic)}
		held = append(held, append(slices.Clone(of), numberCell(t.Stored), numberCell(t.Delayed), cell{text: byteSize(t.Bytes)}, oldest(t.OldestTime), numberCell(t.Duplicates)))
		for _, g := range t.Groups {
			owed = append(owed, append(slices.Clone(of), textCell(g.Group), numberCell(g.Waiting), numberCell(g.InFlight), numberCell(g.Retrying),
				oldest(g.OldestTime), numberCell(g.Dead), numberCell(g.Expired), numberCell(g.Streams)))
		}
	}
	if err := c.printTopics([]string{"BUCKET", "TOPIC", "STORED", "DELAYED", "SIZE", "OLDEST", "DUPLICATES"}, held); err != nil || len(owed) == 0 {
		return err
	}
	fmt.Fprintln(c.out)
	return c.printTopics([]string{"BUCKET", "TOPIC", "GROUP", "WAITING", "IN FLIGHT", "RETRYING", "OLDEST", "DEAD", "EXPIRED", "STREAMS"}, owed)
}

// printTopics leaves the column of the buckets out where all are the default one.
func (c *cli) printTopics(header []string, rows [][]cell) error {
	if !slices.ContainsFunc(rows, func(row []cell) bool { return row[0].text != (admin.Bucket{}).String() }) {
		header = header[1:]
		for i := range rows {
			rows[i] = rows[i][1:]
		}
	}
	return c.printTable(header, rows)
}

func (c *cli) removeGroupCommand() *cobra.Command {
	var yes bool
	cmd := &cobra.Command{
		Use:   "remove-group TOPIC GROUP",
		Short: "End a consumer group that left for good",
		Long: `End a consumer group that left for good: what it was still owed of the topic and its dead letters are
forgotten. A group that consumes now is refused. It says what that is, and asks.

A group that subscribed with a wildcard is owed every topic that comes up and matches: name the pattern as TOPIC to
end that.`,
		Args:              exactArgs("TOPIC", "GROUP"),
		ValidArgsFunction: c.eachTopic(topicThenGroup),
		RunE: func(cmd *cobra.Command, args []string) error {
			topic, group := args[0], args[1]
			return c.withClient(func(client *admin.Client) error {
				loss := ""
				// The groups of a pattern are not among the topics.
				if !strings.ContainsAny(topic, "*>") {
					g, err := c.findGroup(cmd.Context(), client, topic, group)
					if err != nil {
						return err
					}
					loss = fmt.Sprintf(", with %s that it is owed and %s", count(int(g.Waiting+g.InFlight+g.Retrying), "event", "events"), count(int(g.Dead), "dead letter", "dead letters"))
				}
				if !yes {
					if err := c.confirm(fmt.Sprintf("Remove group %q of topic %q%s?", group, topic, loss)); err != nil {
						return err
					}
				}
				if _, err := admin.CallRemoveGroup.Ask(cmd.Context(), client, admin.GroupRequest{Bucket: c.bucket, Topic: topic, Group: group}); err != nil {
					return err
				}
				return c.say(map[string]string{"topic": topic, "group": group}, "group %q of topic %q removed\n", group, topic)
			})
		},
	}
	cmd.Flags().BoolVar(&yes, "yes", false, "do not ask")
	return cmd
}

// findGroup returns what a group of the bucket that commands change is owed, or an error that says what there is.
func (c *cli) findGroup(ctx context.Context, client *admin.Client, topic, group string) (found pubsub.GroupStats, err error) {
	bucket := c.bucket.WithDefaults()
	topics, err := allTopics(ctx, client, bucket)
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
	if len(names) == 0 {
		return "none"
	}
	return strings.Join(names, ", ")
}
