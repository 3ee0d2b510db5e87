package admin

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/dapr-bolt/dapr-bolt/pubsub"
)

// JobAction is what a job does to dead letters.
type JobAction string

// The actions.
const (
	JobRedrive JobAction = "redrive"
	JobPurge   JobAction = "purge"
)

// JobState is how far a job is.
type JobState string

// The states.
const (
	JobRunning  JobState = "running"
	JobDone     JobState = "done"
	JobCanceled JobState = "canceled"
	JobFailed   JobState = "failed"
)

// JobRequest redrives or purges all dead letters that a filter selects and that are there when it begins, in the background.
type JobRequest struct {
	Action JobAction   `json:"action"`
	Filter ListOptions `json:"filter"`
	// Rate bounds how many in a second; 0: as fast as it goes.
	Rate float64 `json:"rate,omitempty"`
}

// JobRequestID names a job.
type JobRequestID struct {
	ID uint64 `json:"id"`
}

// Job is a JobRequest that was taken.
type Job struct {
	ID uint64 `json:"id"`
	JobRequest
	State   JobState  `json:"state"`
	Started time.Time `json:"started"`
	Ended   time.Time `json:"ended,omitzero"`
	// Counted says that Total is known: how many there were when it began.
	Counted bool `json:"counted"`
	Total   int  `json:"total"`
	// Done counts those that were redriven or purged, Skipped those that were gone, or could not be.
	Done    int    `json:"done"`
	Skipped int    `json:"skipped"`
	Error   string `json:"error,omitempty"`
}

// Jobs are those that run, and the last ones that have ended, the newest first.
type Jobs struct {
	Jobs []Job `json:"jobs"`
}

const (
	// MaxJobs bounds the jobs that run at once.
	MaxJobs = 4
	// keptJobs bounds those that are remembered.
	keptJobs = 32
	// jobStep is how many dead letters one step of a job takes.
	jobStep = 256
	// maxRate bounds JobRequest.Rate.
	maxRate = 1_000_000
)

// jobs runs jobs until they are stopped.
type jobs struct {
	ctx    context.Context
	cancel context.CancelFunc
	wg     sync.WaitGroup

	mu     sync.Mutex
	lastID uint64
	jobs   []*runningJob // the oldest first
}

type runningJob struct {
	Job
	cancel context.CancelFunc
}

// Close stops the jobs that run, and what reads the counters, and waits for them, or for ctx.
func (s *Service) Close(ctx context.Context) error {
	s.jobs.cancel()
	stopped := make(chan struct{})
	go func() { s.jobs.wg.Wait(); close(stopped) }()
	select {
	case <-stopped:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("stop the work in the background: %w", ctx.Err())
	}
}

// StartJob begins a job.
func (s *Service) StartJob(ctx context.Context, request JobRequest) (Job, error) {
	if request.Action != JobRedrive && request.Action != JobPurge {
		return Job{}, badRequest("action %q: allowed: %s, %s", request.Action, JobRedrive, JobPurge)
	}
	if !(request.Rate >= 0 && request.Rate <= maxRate) {
		return Job{}, badRequest("rate %g: allowed: 0 to %d in a second", request.Rate, maxRate)
	}
	request.Filter.Bucket = request.Filter.WithDefaults()
	request.Filter.Limit, request.Filter.Data, request.Filter.After = MaxPageSize, false, 0
	if _, err := s.broker(ctx, request.Filter.Bucket); err != nil {
		return Job{}, err
	}
	s.jobs.mu.Lock()
	defer s.jobs.mu.Unlock()
	running := 0
	for _, j := range s.jobs.jobs {
		if j.State == JobRunning {
			running++
		}
	}
	if running == MaxJobs || s.jobs.ctx.Err() != nil {
		return Job{}, Refuse(http.StatusServiceUnavailable, "%d jobs run already: allowed: %d at once", running, MaxJobs)
	}
	s.jobs.lastID++
	jobCtx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	unlink := context.AfterFunc(s.jobs.ctx, cancel)
	j := &runningJob{Job: Job{ID: s.jobs.lastID, JobRequest: request, State: JobRunning, Started: s.opts.Clock.Now()}, cancel: cancel}
	s.jobs.jobs = append(s.jobs.jobs, j)
	if n := len(s.jobs.jobs); n > keptJobs {
		oldest := slices.IndexFunc(s.jobs.jobs, func(j *runningJob) bool { return j.State != JobRunning })
		s.jobs.jobs = slices.Delete(s.jobs.jobs, oldest, oldest+1)
	}
	s.jobs.wg.Go(func() {
		defer unlink()
		defer cancel()
		s.run(jobCtx, j)
	})
	return j.Job, nil
}

// run says in the job what becomes of it.
func (s *Service) run(ctx context.Context, j *runningJob) {
	err := s.steps(ctx, j)
	s.jobs.mu.Lock()
	j.Ended = s.opts.Clock.Now()
	switch {
	case err == nil:
		j.State = JobDone
	case ctx.Err() != nil:
		j.State = JobCanceled
	default:
		j.State, j.Error = JobFailed, err.Error()
	}
	end := j.Job
	s.jobs.mu.Unlock()
	s.changed(ctx, "a job ended", end.Filter.Bucket, "job", end.ID, "action", end.Action, "state", end.State, "total", end.Total, "done", end.Done, "skipped", end.Skipped, "error", end.Error)
}

// steps finds all ids before it changes anything: what dies again while the job runs is not for this job. It then takes one
// bounded step after the other.
func (s *Service) steps(ctx context.Context, j *runningJob) error {
	ids, err := s.selected(ctx, j.Filter)
	if err != nil {
		return err
	}
	s.jobs.mu.Lock()
	j.Total, j.Counted = len(ids), true
	s.jobs.mu.Unlock()
	size := jobStep
	if j.Rate > 0 {
		size = max(1, min(size, int(j.Rate)))
	}
	for at := 0; at < len(ids); at += size {
		if j.Rate > 0 && at > 0 {
			timer := s.opts.Clock.NewTimer(time.Duration(float64(size) / j.Rate * float64(time.Second)))
			select {
			case <-timer.Chan():
			case <-ctx.Done():
				timer.Stop()
			}
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		step := ids[at:min(at+size, len(ids))]
		done, err := s.Apply(ctx, j.Action, IDsRequest{j.Filter.Bucket, step})
		if err != nil {
			return err
		}
		s.jobs.mu.Lock()
		j.Done += done
		j.Skipped += len(step) - done
		s.jobs.mu.Unlock()
	}
	return nil
}

// selected returns the ids of what a filter selects.
func (s *Service) selected(ctx context.Context, filter ListOptions) (ids []uint64, err error) {
	for {
		page, err := CallDeadLetters.Do(ctx, s, filter)
		if err != nil {
			return nil, err
		}
		for i := range page.DeadLetters {
			ids = append(ids, page.DeadLetters[i].ID)
		}
		if filter.After = page.Next; filter.After == 0 {
			return ids, nil
		}
	}
}

// Apply redrives or purges at most MaxIDs dead letters, and returns how many that were.
func (s *Service) Apply(ctx context.Context, action JobAction, request IDsRequest) (done int, err error) {
	if action == JobPurge {
		result, err := CallPurge.Do(ctx, s, request)
		return result.Purged, err
	}
	result, err := CallRedrive.Do(ctx, s, request)
	return len(result.Redriven), err
}

// listJobs lists the jobs.
func (s *Service) listJobs(context.Context, Empty) (Jobs, error) {
	s.jobs.mu.Lock()
	defer s.jobs.mu.Unlock()
	answer := Jobs{Jobs: []Job{}}
	for _, j := range slices.Backward(s.jobs.jobs) {
		answer.Jobs = append(answer.Jobs, j.Job)
	}
	return answer, nil
}

// Job returns one job.
func (s *Service) Job(_ context.Context, request JobRequestID) (Job, error) {
	return s.jobs.find(request.ID, func(*runningJob) {})
}

// cancelJob ends a job after the step that it is at.
func (s *Service) cancelJob(ctx context.Context, request JobRequestID) (Job, error) {
	job, err := s.jobs.find(request.ID, func(j *runningJob) { j.cancel() })
	if err == nil {
		s.changed(ctx, "a job was asked to stop", Bucket{}, "job", job.ID)
	}
	return job, err
}

// find calls do with the job, and returns it.
func (js *jobs) find(id uint64, do func(j *runningJob)) (Job, error) {
	js.mu.Lock()
	defer js.mu.Unlock()
	for _, j := range js.jobs {
		if j.ID == id {
			do(j)
			return j.Job, nil
		}
	}
	return Job{}, fmt.Errorf("job %d: %w", id, pubsub.ErrNotFound)
}
