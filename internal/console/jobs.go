package console

import (
	"context"
	"net/http"

	"github.com/dapr-bolt/dapr-bolt/internal/admin"
)

// jobsShown bounds the jobs that the page of dead letters lists.
const jobsShown = 10

// shownJob is a job as its page and the list show it.
type shownJob struct {
	admin.Job
	// What is the job's filter, but for when they died.
	What selection
}

// Handled is how many of Total are dealt with.
func (j shownJob) Handled() int { return j.Done + j.Skipped }

// Problem says why the job has ended before its end; empty: it has not.
func (j shownJob) Problem() string {
	if j.State == admin.JobCanceled {
		return "it was stopped"
	}
	return j.Error
}

// Title names what the job does.
func (j shownJob) Title() string {
	if j.Action == admin.JobPurge {
		return "Purge"
	}
	return "Redrive"
}

// Running reports whether the job has not ended.
func (j shownJob) Running() bool { return j.State == admin.JobRunning }

func (c *Console) shown(job admin.Job) shownJob {
	f := job.Filter
	j := shownJob{Job: job, What: selection{Bucket: f.Bucket, Topic: f.Topic, Group: f.Group, Reason: string(f.Reason), Cause: f.Cause, Text: f.Text}}
	if c.opts.HideValues {
		j.What.Text = ""
	}
	return j
}

// jobs are those that run, and then those that ended last.
func (c *Console) jobs(ctx context.Context) (shown []shownJob, err error) {
	all, err := admin.CallJobs.Do(ctx, c.opts.Service, admin.Empty{})
	for _, running := range []bool{true, false} {
		for _, job := range all.Jobs {
			if j := c.shown(job); j.Running() == running {
				shown = append(shown, j)
			}
		}
	}
	return shown[:min(len(shown), jobsShown)], err
}

func (c *Console) job(r *http.Request) (*page, error) {
	id, err := idOf(r.Form, "id")
	if err != nil {
		return nil, err
	}
	job, err := c.opts.Service.Job(r.Context(), admin.JobRequestID{ID: id})
	if err != nil {
		return nil, err
	}
	j := c.shown(job)
	return &page{Title: j.Title(), Section: sectionDeadLetters, Live: j.Running(), template: "job.html", Data: j}, nil
}

func (c *Console) stopJob(r *http.Request) (next, error) {
	id, err := idOf(r.PostForm, "id")
	if err != nil {
		return next{}, err
	}
	if _, err := admin.CallCancelJob.Do(r.Context(), c.opts.Service, admin.JobRequestID{ID: id}); err != nil {
		return next{}, err
	}
	return after(link("/job", "id", id), "stopped"), nil
}
