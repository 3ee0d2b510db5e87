package main

import (
	"cmp"
	"context"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/dapr-bolt/dapr-bolt/internal/admin"
	"github.com/dapr-bolt/dapr-bolt/internal/cause"
)

func (c *cli) topicShowCommand() *cobra.Command {
	return c.command("show TOPIC", "Show one topic: its groups, who consumes it, and their configuration as in force", func(ctx context.Context, args []string) error {
		return ask(ctx, c, admin.CallTopic, admin.TopicRequest{Bucket: c.bucket, Topic: args[0]}, func(topic admin.TopicDetail) error {
			if err := c.printTopicTables([]admin.TopicStats{topic.TopicStats}); err != nil || len(topic.Consumers) == 0 {
				return err
			}
			fmt.Fprintln(c.out)
			const header = "GROUP  INSTANCE  IN FLIGHT  MAX DELIVER  BACK OFF  ACK WAIT  MAX ACK PENDING  ORDERED"
			return list(c, header, topic.Consumers, "", "", func(s *admin.Consumer) []any {
				return []any{
					s.Group, s.Instance, s.InFlight, s.Config.MaxDeliver, strings.Join(s.Config.BackOff, ","), s.Config.AckWait,
					s.Config.MaxAckPending, s.Config.Ordered,
				}
			})
		})
	})
}

func (c *cli) topicRemoveCommand() *cobra.Command {
	cmd := c.command("remove TOPIC", "Remove a topic with its events, groups and dead letters", func(ctx context.Context, args []string) error {
		request := admin.TopicRequest{Bucket: c.bucket, Topic: args[0]}
		topic, err := admin.CallTopic.Ask(ctx, c.client, request)
		if err != nil {
			return err
		}
		err = c.confirm("Remove topic %q, with %s, %s and %s?", args[0], count(uint64(topic.Stored)+topic.Delayed+topic.Retrying, "event", "events"),
			count(len(topic.Groups), "group", "groups"), count(topic.Dead, "dead letter", "dead letters"))
		if err != nil {
			return err
		}
		return do(ctx, c, admin.CallRemoveTopic, request, map[string]string{"topic": args[0]}, "topic %q removed\n", args[0])
	})
	cmd.Long = `Remove a topic with its events, groups and dead letters. A topic that somebody consumes is refused. It says what is
lost, and asks. Event ids stay remembered for their window.`
	c.yesFlag(cmd)
	return cmd
}

func (c *cli) topicWatchCommand() *cobra.Command {
	return c.command("watch TOPIC", "Show the events of a topic as they are published, until Ctrl-C", func(ctx context.Context, args []string) error {
		return c.client.Watch(ctx, admin.TopicRequest{Bucket: c.bucket, Topic: args[0]}, func(e admin.WatchedEvent) error {
			return show(c, e, nil, func(e admin.WatchedEvent) error {
				if e.Missed > 0 {
					fmt.Fprintf(c.errOut, "%d events came too fast to be shown\n", e.Missed)
				}
				data, err := readable(e.Content)
				if err != nil {
					return err
				}
				return c.printf("%s  sequence %d  id %s\n%s\n", c.when(e.PublishTime), e.Sequence, cmp.Or(harmless(e.ID), "-"), data)
			})
		})
	})
}

func (c *cli) topicEventsCommand() *cobra.Command {
	var request admin.EventsRequest
	cmd := c.command("events TOPIC", "List the last events of a topic, the newest first", func(ctx context.Context, args []string) error {
		request.Bucket, request.Topic, request.Data = c.bucket, args[0], c.output == outputJSON
		return ask(ctx, c, admin.CallEvents, request, func(page admin.EventPage) error {
			return list(c, "SEQUENCE  TIME  EVENT ID  SIZE  CONTENT TYPE", page.Events, "no events", nextFlag("before", page.Next), func(e *admin.Event) []any {
				return []any{e.Sequence, e.PublishTime, e.ID, size(e.Size), e.ContentType}
			})
		})
	})
	cmd.Long = `List the last events of a topic, the newest first. Events that every group has handled are not kept; of these, the few
are listed that the process remembers.`
	addFlag(cmd.Flags(), &request.Before, "before", "sequence", "continue before this sequence", parseID)
	limitFlag(cmd, &request.Limit)
	return cmd
}

func (c *cli) topicEventCommand() *cobra.Command {
	return c.command("event TOPIC SEQUENCE", "Show one event, and where it stands for each consumer group", func(ctx context.Context, args []string) error {
		sequence, err := parseIDArg("SEQUENCE", args[1])
		if err != nil {
			return err
		}
		return ask(ctx, c, admin.CallEvent, admin.EventRequest{Bucket: c.bucket, Topic: args[0], Sequence: sequence}, c.printEvent)
	})
}

func (c *cli) printEvent(e admin.EventDetail) error {
	var b strings.Builder
	if e.Kept {
		data, err := readable(e.Content)
		if err != nil {
			return err
		}
		fmt.Fprintf(&b, "event %d of topic %s, id %s, %s, published %s\n\n%s\n", e.Sequence, harmless(e.Topic), cmp.Or(harmless(e.ID), "-"), admin.ByteSize(e.Size), c.when(e.PublishTime), data)
	} else {
		fmt.Fprintf(&b, "event %d of topic %s: it is not kept any more\n", e.Sequence, harmless(e.Topic))
	}
	fmt.Fprintln(c.out, b.String())
	return list(c, "GROUP  STATE  RETRY  DELIVERIES  DEAD LETTER  LAST ERROR", e.Groups, "no groups", "", func(g *admin.EventGroup) []any {
		last := ""
		if n := len(g.Attempts); n > 0 {
			last = cause.Of(g.Attempts[n-1].Error)
		}
		return []any{g.Group, string(g.State), g.RetryAt, g.Deliveries, g.DeadLetter, last}
	})
}
