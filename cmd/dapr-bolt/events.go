package main

import (
	"cmp"
	"fmt"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/dapr-bolt/dapr-bolt/internal/admin"
	"github.com/dapr-bolt/dapr-bolt/internal/cause"
)

func (c *cli) topicShowCommand() *cobra.Command {
	return &cobra.Command{
		Use:               "show TOPIC",
		Short:             "Show one topic: its groups, who consumes it, and their configuration as in force",
		Args:              exactArgs("TOPIC"),
		ValidArgsFunction: c.eachTopic(firstTopic),
		RunE: func(cmd *cobra.Command, args []string) error {
			return ask(cmd.Context(), c, admin.CallTopic, admin.TopicRequest{Bucket: c.bucket, Topic: args[0]}, func(topic admin.TopicDetail) error {
				if err := c.printTopicTables([]admin.TopicStats{topic.TopicStats}); err != nil || len(topic.Consumers) == 0 {
					return err
				}
				var rows [][]cell
				for _, consumer := range topic.Consumers {
					rows = append(rows, []cell{
						textCell(consumer.Group), textCell(consumer.Instance), numberCell(consumer.InFlight), numberCell(consumer.Config.MaxDeliver),
						textCell(strings.Join(consumer.Config.BackOff, ",")), textCell(consumer.Config.AckWait),
						numberCell(consumer.Config.MaxAckPending), textCell(strconv.FormatBool(consumer.Config.Ordered)),
					})
				}
				fmt.Fprintln(c.out)
				return c.printTable([]string{"GROUP", "INSTANCE", "IN FLIGHT", "MAX DELIVER", "BACK OFF", "ACK WAIT", "MAX ACK PENDING", "ORDERED"}, rows)
			})
		},
	}
}

func (c *cli) topicRemoveCommand() *cobra.Command {
	var yes bool
	cmd := &cobra.Command{
		Use:   "remove TOPIC",
		Short: "Remove a topic with its events, groups and dead letters",
		Long: `Remove a topic with its events, groups and dead letters. A topic that somebody consumes is refused. It says what is
lost, and asks. Event ids stay remembered for their window.`,
		Args:              exactArgs("TOPIC"),
		ValidArgsFunction: c.eachTopic(firstTopic),
		RunE: func(cmd *cobra.Command, args []string) error {
			return c.withClient(func(client *admin.Client) error {
				request := admin.TopicRequest{Bucket: c.bucket, Topic: args[0]}
				topic, err := admin.CallTopic.Ask(cmd.Context(), client, request)
				if err != nil {
					return err
				}
				if !yes {
					question := fmt.Sprintf("Remove topic %q, with %s, %s and %s?", args[0], count(int(topic.Stored+topic.Delayed+topic.Retrying), "event", "events"),
						count(len(topic.Groups), "group", "groups"), count(int(topic.Dead), "dead letter", "dead letters"))
					if err := c.confirm(question); err != nil {
						return err
					}
				}
				if _, err := admin.CallRemoveTopic.Ask(cmd.Context(), client, request); err != nil {
					return err
				}
				return c.say(map[string]string{"topic": args[0]}, "topic %q removed\n", args[0])
			})
		},
	}
	cmd.Flags().BoolVar(&yes, "yes", false, "do not ask")
	return cmd
}

func (c *cli) topicWatchCommand() *cobra.Command {
	return &cobra.Command{
		Use:               "watch TOPIC",
		Short:             "Show the events of a topic as they are published, until Ctrl-C",
		Args:              exactArgs("TOPIC"),
		ValidArgsFunction: c.eachTopic(firstTopic),
		RunE: func(cmd *cobra.Command, args []string) error {
			return c.withClient(func(client *admin.Client) error {
				return client.Watch(cmd.Context(), admin.TopicRequest{Bucket: c.bucket, Topic: args[0]}, func(e admin.WatchedEvent) error {
					if c.output == outputJSON {
						return c.printJSON(e)
					}
					if e.Missed > 0 {
						fmt.Fprintf(c.errOut, "%d events came too fast to be shown\n", e.Missed)
					}
					data, err := readable(&e.Event)
					if err != nil {
						return err
					}
					_, err = fmt.Fprintf(c.out, "%s  sequence %d  id %s\n%s\n", c.when(e.PublishTime), e.Sequence, cmp.Or(harmless(e.ID), "-"), data)
					return err
				})
			})
		},
	}
}

func (c *cli) topicEventsCommand() *cobra.Command {
	request := admin.EventsRequest{Limit: admin.DefaultPageSize}
	cmd := &cobra.Command{
		Use:   "events TOPIC",
		Short: "List the last events of a topic, the newest first",
		Long: `List the last events of a topic, the newest first. Events that every group has handled are not kept; of these, the few
are listed that the process remembers.`,
		Args:              exactArgs("TOPIC"),
		ValidArgsFunction: c.eachTopic(firstTopic),
		RunE: func(cmd *cobra.Command, args []string) error {
			request.Bucket, request.Topic, request.Data = c.bucket, args[0], c.output == outputJSON
			return ask(cmd.Context(), c, admin.CallEvents, request, func(page admin.EventPage) error {
				var rows [][]cell
				for i := range page.Events {
					e := &page.Events[i]
					rows = append(rows, []cell{numberCell(e.Sequence), c.timeCell(e.PublishTime), textCell(e.ID), {text: byteSize(int64(e.Size))}, textCell(e.ContentType)})
				}
				return c.printPage([]string{"SEQUENCE", "TIME", "EVENT ID", "SIZE", "CONTENT TYPE"}, rows, "no events", nextFlag("before", page.Next))
			})
		},
	}
	addFlag(cmd.Flags(), &request.Before, "before", "", "sequence", "continue before this sequence", parseID)
	addFlag(cmd.Flags(), &request.Limit, "limit", strconv.Itoa(request.Limit), "count", "how many to list at most", parseLimit)
	return cmd
}

func (c *cli) topicEventCommand() *cobra.Command {
	return &cobra.Command{
		Use:               "event TOPIC SEQUENCE",
		Short:             "Show one event, and where it stands for each consumer group",
		Args:              exactArgs("TOPIC", "SEQUENCE"),
		ValidArgsFunction: c.eachTopic(firstTopic),
		RunE: func(cmd *cobra.Command, args []string) error {
			sequence, err := parseSequence(args[1])
			if err != nil {
				return err
			}
			return ask(cmd.Context(), c, admin.CallEvent, admin.EventRequest{Bucket: c.bucket, Topic: args[0], Sequence: sequence}, func(e admin.EventDetail) error {
				return c.printEvent(&e)
			})
		},
	}
}

func parseSequence(text string) (uint64, error) {
	sequence, err := parseID(text)
	if err != nil {
		return 0, usagef("invalid SEQUENCE %q: %w", text, err)
	}
	return sequence, nil
}

func (c *cli) printEvent(e *admin.EventDetail) error {
	var b strings.Builder
	if e.Kept {
		fmt.Fprintf(&b, "event %d of topic %s, id %s, %s, published %s\n", e.Sequence, harmless(e.Topic), cmp.Or(harmless(e.ID), "-"), byteSize(int64(e.Size)), c.when(e.PublishTime))
		data, err := readable(&e.Event)
		if err != nil {
			return err
		}
		fmt.Fprintf(&b, "\n%s\n", data)
	} else {
		fmt.Fprintf(&b, "event %d of topic %s: it is not kept any more\n", e.Sequence, harmless(e.Topic))
	}
	fmt.Fprintln(c.out, b.String())
	var rows [][]cell
	for _, g := range e.Groups {
		retry, last := c.timeCell(zeroIfNil(g.RetryAt)), ""
		if n := len(g.Attempts); n > 0 {
			last = cause.Of(g.Attempts[n-1].Error)
		}
		rows = append(rows, []cell{textCell(g.Group), textCell(string(g.State)), retry, numberCell(g.Deliveries), numberCell(g.DeadLetter), textCell(last)})
	}
	return c.printPage([]string{"GROUP", "STATE", "RETRY", "DELIVERIES", "DEAD LETTER", "LAST ERROR"}, rows, "no groups", "")
}
