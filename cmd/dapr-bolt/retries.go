package main

import (
	"context"

	"github.com/spf13/cobra"

	"github.com/dapr-bolt/dapr-bolt/internal/admin"
	"github.com/dapr-bolt/dapr-bolt/internal/cause"
	"github.com/dapr-bolt/dapr-bolt/internal/sidecars"
	"github.com/dapr-bolt/dapr-bolt/pubsub"
)

func (c *cli) retriesCommand() *cobra.Command {
	cmd := c.family("retries", "Look into the events that wait for another delivery, and deliver or skip them now", sidecars.PubSub, "")
	cmd.AddCommand(c.retriesListCommand(),
		c.retryCommand("now", "Deliver a waiting retry now", "is due now", admin.CallRetryNow),
		c.retryCommand("skip", "Make a dead letter of a waiting retry, with the reason "+string(pubsub.ReasonSkipped), "is among the dead letters", admin.CallRetrySkip))
	return cmd
}

func (c *cli) retriesListCommand() *cobra.Command {
	var request admin.RetriesRequest
	cmd := c.command("list TOPIC", "List the retries of a topic, by group and by when they are due", func(ctx context.Context, args []string) error {
		request.Bucket, request.Topic = c.bucket, args[0]
		return ask(ctx, c, admin.CallRetries, request, func(page admin.RetryPage) error {
			return list(c, "GROUP  SEQUENCE  DUE  DELIVERIES  EVENT ID  LAST ERROR", page.Retries, "no retries", nextFlag("after", page.Next), func(r *admin.Retry) []any {
				due := any(r.Due)
				if r.InFlight {
					due = cell{text: "in flight"}
				}
				return []any{r.Group, r.Sequence, due, r.Deliveries, r.EventID, cause.Of(r.LastError)}
			})
		})
	})
	cmd.Flags().StringVar(&request.Group, "group", "", "only those of this consumer group")
	cmd.Flags().StringVar(&request.After, "after", "", "continue where the page before says")
	limitFlag(cmd, &request.Limit)
	completeFlag(cmd, "group", c.eachTopic(groupsOf))
	return cmd
}

func (c *cli) retryCommand(name, short, done string, change admin.Call[admin.RetryRequest, admin.Empty]) *cobra.Command {
	return c.command(name+" TOPIC GROUP SEQUENCE", short, func(ctx context.Context, args []string) error {
		sequence, err := parseIDArg("SEQUENCE", args[2])
		if err != nil {
			return err
		}
		request := admin.RetryRequest{Bucket: c.bucket, Topic: args[0], Group: args[1], Sequence: sequence}
		return do(ctx, c, change, request, request, "event %d of topic %q %s for group %q\n", sequence, args[0], done, args[1])
	})
}
