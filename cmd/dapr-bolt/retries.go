package main

import (
	"strconv"

	"github.com/spf13/cobra"

	"github.com/dapr-bolt/dapr-bolt/internal/admin"
	"github.com/dapr-bolt/dapr-bolt/internal/cause"
	"github.com/dapr-bolt/dapr-bolt/internal/sidecars"
	"github.com/dapr-bolt/dapr-bolt/pubsub"
)

func (c *cli) retriesCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "retries",
		Short: "Look into the events that wait for another delivery, and deliver or skip them now",
		Args:  subcommandArgs,
		RunE:  needsSubcommand,
	}
	c.outputFlag(cmd, cmd.PersistentFlags())
	c.bucketFlags(cmd, sidecars.PubSub, "")
	cmd.AddCommand(c.retriesListCommand(),
		c.retryCommand("now", "Deliver a waiting retry now", "is due now", admin.CallRetryNow),
		c.retryCommand("skip", "Make a dead letter of a waiting retry, with the reason "+string(pubsub.ReasonSkipped), "is among the dead letters", admin.CallRetrySkip))
	return cmd
}

func (c *cli) retriesListCommand() *cobra.Command {
	request := admin.RetriesRequest{Limit: admin.DefaultPageSize}
	cmd := &cobra.Command{
		Use:               "list TOPIC",
		Short:             "List the retries of a topic, by group and by when they are due",
		Args:              exactArgs("TOPIC"),
		ValidArgsFunction: c.eachTopic(firstTopic),
		RunE: func(cmd *cobra.Command, args []string) error {
			request.Bucket, request.Topic = c.bucket, args[0]
			return ask(cmd.Context(), c, admin.CallRetries, request, func(page admin.RetryPage) error {
				var rows [][]cell
				for _, r := range page.Retries {
					due := c.timeCell(zeroIfNil(r.Due))
					if r.InFlight {
						due = cell{text: "in flight"}
					}
					rows = append(rows, []cell{textCell(r.Group), numberCell(r.Sequence), due, numberCell(r.Deliveries), textCell(r.EventID), textCell(cause.Of(r.LastError))})
				}
				return c.printPage([]string{"GROUP", "SEQUENCE", "DUE", "DELIVERIES", "EVENT ID", "LAST ERROR"}, rows, "no retries", nextFlag("after", page.Next))
			})
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&request.Group, "group", "", "only those of this consumer group")
	flags.StringVar(&request.After, "after", "", "continue where the page before says")
	addFlag(flags, &request.Limit, "limit", strconv.Itoa(request.Limit), "count", "how many to list at most", parseLimit)
	completeFlag(cmd, "group", c.eachTopic(groupsOf))
	return cmd
}

func (c *cli) retryCommand(name, short, done string, change admin.Call[admin.RetryRequest, admin.Empty]) *cobra.Command {
	return &cobra.Command{
		Use:               name + " TOPIC GROUP SEQUENCE",
		Short:             short,
		Args:              exactArgs("TOPIC", "GROUP", "SEQUENCE"),
		ValidArgsFunction: c.eachTopic(topicThenGroup),
		RunE: func(cmd *cobra.Command, args []string) error {
			sequence, err := parseSequence(args[2])
			if err != nil {
				return err
			}
			return c.withClient(func(client *admin.Client) error {
				request := admin.RetryRequest{Bucket: c.bucket, Topic: args[0], Group: args[1], Sequence: sequence}
				if _, err := change.Ask(cmd.Context(), client, request); err != nil {
					return err
				}
				return c.say(request, "event %d of topic %q %s for group %q\n", sequence, args[0], done, args[1])
			})
		},
	}
}
