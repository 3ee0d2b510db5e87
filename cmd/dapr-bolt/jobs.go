package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/dapr-bolt/dapr-bolt/internal/admin"
)

func (c *cli) jobsCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "jobs",
		Short: "List the redrives and purges of many that the console has begun",
		Long:  `List the redrives and purges of many that the console has begun: those under way, and those that ended last.`,
		Args:  noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			list := func(client *admin.Client) ([]admin.Job, error) {
				jobs, err := admin.CallJobs.Ask(cmd.Context(), client, admin.Empty{})
				return jobs.Jobs, err
			}
			return learn(c, list, func(jobs []admin.Job) error {
				var rows [][]cell
				for _, j := range jobs {
					rows = append(rows, []cell{
						numberCell(j.ID), textCell(string(j.Action)), textCell(j.Filter.Bucket.String()), textCell(j.Filter.Topic), textCell(j.Filter.Group),
						textCell(string(j.State)), numberCell(j.Done), numberCell(j.Total), c.timeCell(j.Started), textCell(j.Filter.Cause),
					})
				}
				return c.printPage([]string{"ID", "ACTION", "BUCKET", "TOPIC", "GROUP", "STATE", "DONE", "OF", "BEGAN", "CAUSE"}, rows, "no jobs", "")
			})
		},
	}
}

func (c *cli) stopJobCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "stop-job ID",
		Short: "Stop a redrive or a purge of many after the step that it is at",
		Args:  exactArgs("ID"),
		RunE: func(cmd *cobra.Command, args []string) error {
			ids, err := parseIDs(args)
			if err != nil {
				return err
			}
			return ask(cmd.Context(), c, admin.CallCancelJob, admin.JobRequestID{ID: ids[0]}, func(job admin.Job) error {
				_, err := fmt.Fprintf(c.out, "job %d was asked to stop: %d of %d done\n", job.ID, job.Done, job.Total)
				return err
			})
		},
	}
}
