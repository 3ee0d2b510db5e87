package console

import (
	"net/http"

	"github.com/dapr-bolt/dapr-bolt/internal/admin"
)

// jobPage is what the page of a job shows.
type jobPage struct {
	admin.Job
	// What is the job's filter, but for when they died.
	What selection
}

// Handled is how many of Total are dealt with.
func (p jobPage) Handled() int { return p.Done + p.Skipped }

// Purge reports whether the job purges, and does not redrive.
func (p jobPage) Purge() bool { return p.Action == admin.JobPurge }

// Running reports whether the job has not ended.
func (p jobPage) Running() bool { return p.State == admin.JobRunning }

// Problem says why the job has ended before its end; empty: it has not.
func (p jobPage) Problem() string {
	if p.State == admin.JobCanceled {
		return "it was stopped"
	}
	return p.Error
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
	f := job.Filter
	p := jobPage{Job: job, What: selection{Bucket: f.Bucket, Topic: f.Topic, Group: f.Group, Reason: string(f.Reason), Cause: f.Cause, Text: f.Text}}
	if c.opts.HideValues {
		p.What.Text = ""
	}
	title := "Redrive"
	if p.Purge() {
		title = "Purge"
	}
	return &page{Title: title, Section: sectionDeadLetters, Live: p.Running(), template: "job.html", Data: p}, nil
}

func (c *Console) stopJob(r *http.Request) (next, error) {
	id, err := idOf(r.PostForm, "id")
	if err != nil {
		return next{}, err
	}
	if _, err := c.opts.Service.CancelJob(admin.By(r.Context(), person(r)), admin.JobRequestID{ID: id}); err != nil {
		return next{}, err
	}
	return after("/job", idQuery(id), "stopped"), nil
}
