package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/dapr-bolt/dapr-bolt/internal/admin"
	"github.com/dapr-bolt/dapr-bolt/internal/databases"
	"github.com/dapr-bolt/dapr-bolt/internal/sidecars"
)

func (c *cli) bucketsCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "buckets",
		Short: "List the buckets of all databases",
		Args:  subcommandArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			list := func(client *admin.Client) (admin.Buckets, error) {
				buckets, err := admin.CallBuckets.Ask(cmd.Context(), client, admin.Empty{})
				c.sayMissing(buckets.Missing)
				return buckets, err
			}
			return learn(c, list, func(buckets admin.Buckets) error {
				var rows [][]cell
				for _, b := range buckets.State {
					rows = append(rows, []cell{{text: string(sidecars.State)}, textCell(b.Database), textCell(b.Name)})
				}
				for _, b := range buckets.Buckets {
					rows = append(rows, []cell{{text: string(sidecars.PubSub)}, textCell(b.Database), textCell(b.Name)})
				}
				return c.printPage([]string{"KIND", "DATABASE", "BUCKET"}, rows, "no buckets", "")
			})
		},
	}
	c.outputFlag(cmd, cmd.PersistentFlags())
	cmd.AddCommand(c.bucketRemoveCommand())
	return cmd
}

func (c *cli) bucketRemoveCommand() *cobra.Command {
	var (
		database string
		yes      bool
	)
	cmd := &cobra.Command{
		Use:   "remove KIND BUCKET",
		Short: "Remove all that a bucket holds; KIND is state or pubsub",
		Long: `Remove all that a bucket holds; KIND is state or pubsub. A bucket that a connected sidecar works on is refused. Its
name can be used again; no ETag and no dead letter's id is given out twice. It asks first.`,
		Args: exactArgs("KIND", "BUCKET"),
		RunE: func(cmd *cobra.Command, args []string) error {
			request := admin.RemoveBucketRequest{Kind: args[0], Bucket: admin.Bucket{Database: database, Name: args[1]}}
			return c.withClient(func(client *admin.Client) error {
				if !yes {
					if err := c.confirm(fmt.Sprintf("Remove all that %s bucket %s holds?", request.Kind, request.Bucket)); err != nil {
						return err
					}
				}
				if _, err := admin.CallRemoveBucket.Ask(cmd.Context(), client, request); err != nil {
					return err
				}
				return c.say(request, "%s bucket %s removed\n", request.Kind, request.Bucket)
			})
		},
	}
	addFlag(cmd.Flags(), &database, "database", "", "name", "the database: DATABASE.db in the data directory (default: "+databases.DefaultDatabase+")", parseName)
	cmd.Flags().BoolVar(&yes, "yes", false, "do not ask")
	return cmd
}
