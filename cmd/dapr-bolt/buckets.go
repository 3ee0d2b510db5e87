package main

import (
	"context"

	"github.com/spf13/cobra"

	"github.com/dapr-bolt/dapr-bolt/internal/admin"
	"github.com/dapr-bolt/dapr-bolt/internal/databases"
	"github.com/dapr-bolt/dapr-bolt/internal/sidecars"
)

func (c *cli) bucketsCommand() *cobra.Command {
	cmd := c.command("buckets", "List the buckets of all databases", func(ctx context.Context, _ []string) error {
		buckets, err := admin.CallBuckets.Ask(ctx, c.client, admin.Empty{})
		c.sayMissing(buckets.Missing)
		return show(c, buckets, err, func(buckets admin.Buckets) error {
			var rows [][]any
			for _, b := range buckets.State {
				rows = append(rows, []any{sidecars.State, b.Database, b.Name})
			}
			for _, b := range buckets.Buckets {
				rows = append(rows, []any{sidecars.PubSub, b.Database, b.Name})
			}
			return c.printPage("KIND  DATABASE  BUCKET", rows, "no buckets", "")
		})
	})
	cmd.Args = subcommandArgs
	c.outputFlag(cmd, cmd.PersistentFlags())
	cmd.AddCommand(c.bucketRemoveCommand())
	return cmd
}

func (c *cli) bucketRemoveCommand() *cobra.Command {
	var database string
	cmd := c.command("remove KIND BUCKET", "Remove all that a bucket holds; KIND is state or pubsub", func(ctx context.Context, args []string) error {
		request := admin.RemoveBucketRequest{Kind: args[0], Bucket: admin.Bucket{Database: database, Name: args[1]}}
		if err := c.confirm("Remove all that %s bucket %s holds?", request.Kind, request.Bucket); err != nil {
			return err
		}
		return do(ctx, c, admin.CallRemoveBucket, request, request, "%s bucket %s removed\n", request.Kind, request.Bucket)
	})
	cmd.Long = `Remove all that a bucket holds; KIND is state or pubsub. A bucket that a connected sidecar works on is refused. Its
name can be used again; no ETag and no dead letter's id is given out twice. It asks first.`
	addFlag(cmd.Flags(), &database, "database", "name", "the database: DATABASE.db in the data directory (default: "+databases.DefaultDatabase+")", parseName)
	c.yesFlag(cmd)
	return cmd
}
