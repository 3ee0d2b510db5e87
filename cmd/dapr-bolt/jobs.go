package main

import (
	"context"

	"github.com/spf13/cobra"

	"github.com/dapr-bolt/dapr-bolt/internal/admin"
)

func (c *cli) jobsCommand() *cobra.Command {
	cmd := c.command("jobs", "List the redrives and purges of many that the console has begun", func(ctx context.Context, _ []string) error {
		answer, err := admin.CallJobs.Ask(ctx, c.client, admin.Empty{})
		return show(c, answer.Jobs, err, func(jobs []admin.Job) error {
			return list(c, "ID  ACTION  BUCKET  TOPIC  GROUP  STATE  DONE  OF  BEGAN  CAUSE", jobs, "no jobs", "", func(j *admin.Job) []any {
				return []any{
					j.ID, string(j.Action), j.Filter.Bucket.String(), j.Filter.Topic, j.Filter.Group,
					string(j.State), j.Done, j.Total, j.Started, j.Filter.Cause,
				}
			})
		})
	})
	cmd.Long = `List the redrives and purges of many that the console has begun: those under way, and those that ended last.`
	return cmd
}

func (c *cli) stopJobCommand() *cobra.Command {
	cmd := c.command("stop-job ID", "Stop a redrive or a purge of many after the step that it is at", func(ctx context.Context, args []string) error {
		id, err := parseIDArg("ID", args[0])
		if err != nil {
			return err
		}
		return ask(ctx, c, admin.CallCancelJob, admin.JobRequestID{ID: id}, func(job admin.Job) error {
			return c.printf("job %d was asked to stop: %d of %d done\n", job.ID, job.Done, job.Total)
		})
	})
	cmd.ValidArgsFunction = nil // the ids are a dead letter's elsewhere
	return cmd
}
