package main

import (
	"fmt"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"github.com/dapr-bolt/dapr-bolt/internal/admin"
)

func (c *cli) topicsCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "topics",
		Short: "Show what topics hold and what consumer groups are owed",
		Args:  noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return c.withClient(func(client *admin.Client) error {
				topics, err := client.Topics(cmd.Context(), c.scope())
				if err != nil {
					return err
				}
				if c.output == outputJSON {
					return c.printJSON(topics.Topics)
				}
				return c.printTopics(topics)
			})
		},
	}
	shared := cmd.PersistentFlags()
	c.outputFlag(shared)
	c.databaseFlag(shared)
	c.bucketFlag(shared)
	cmd.AddCommand(c.removeGroupCommand())
	return cmd
}

func (c *cli) printTopics(topics admin.Topics) error {
	if len(topics.Topics) == 0 {
		_, err := fmt.Fprintln(c.errOut, "no topics")
		return err
	}
	number := func(n uint64) string { return strconv.FormatUint(n, 10) }
	when := func(t *time.Time) string {
		if t == nil {
			return "-"
		}
		return timestamp(*t)
	}
	var rows [][]string
	for _, t := range topics.Topics {
		of := []string{cell(t.Topic, 60), number(t.Stored), number(t.Delayed), byteSize(t.Bytes), when(t.OldestTime), number(t.Duplicates)}
		if len(t.Groups) == 0 {
			rows = append(rows, append(of, "-", "-", "-", "-", "-", "-", "-", "-"))
		}
		for _, g := range t.Groups {
			row := append([]string{}, of...)
			rows = append(rows, append(row, cell(g.Group, 60), number(g.Waiting), number(g.InFlight), number(g.Retrying), when(g.OldestTime), number(g.Dead), number(g.Expired), strconv.Itoa(g.Streams)))
		}
	}
	return c.printTable([]string{
		"TOPIC", "STORED", "DELAYED", "SIZE", "OLDEST", "DUPLICATES",
		"GROUP", "WAITING", "IN FLIGHT", "RETRYING", "OLDEST OWED", "DEAD", "EXPIRED", "STREAMS",
	}, rows)
}

func (c *cli) removeGroupCommand() *cobra.Command {
	var yes bool
	cmd := &cobra.Command{
		Use:   "remove-group TOPIC GROUP",
		Short: "End a consumer group that left for good",
		Long: `End a consumer group that left for good: what it was still owed of the topic and its dead letters are
forgotten. A group that consumes now is refused. It asks first.

A group that subscribed with a wildcard is owed every topic that comes up and matches: name the pattern as TOPIC to
end that.`,
		Args: exactArgs("TOPIC", "GROUP"),
		RunE: func(cmd *cobra.Command, args []string) error {
			topic, group := args[0], args[1]
			if !yes {
				question := fmt.Sprintf("Remove group %q of topic %q, with what it is owed and its dead letters?", group, topic)
				if err := c.confirm(question); err != nil {
					return err
				}
			}
			return c.withClient(func(client *admin.Client) error {
				if err := client.RemoveGroup(cmd.Context(), c.scope(), topic, group); err != nil {
					return err
				}
				if c.output == outputJSON {
					return c.printJSON(map[string]string{"topic": topic, "group": group})
				}
				_, err := fmt.Fprintf(c.out, "group %q of topic %q removed\n", group, topic)
				return err
			})
		},
	}
	cmd.Flags().BoolVar(&yes, "yes", false, "do not ask")
	return cmd
}
