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
	State   JobState   `json:"state"`
	Started time.Time  `json:"started"`
	Ended   *time.Time `json:"ended,omitempty"`
	// Done counts those that were redriven or purged, Skipped those that could not be.
	Done    int    `json:"done"`
	Skipped int    `json:"skipped"`
	Error   string `json:"error,omitempty"`
}

// Jobs are those that run, and the last ones that have ended, the newest first.
type Jobs struct {
	Jobs []Job `json:"jobs"`
}

const (
	// maxJobs bounds the jobs that run at once, and keptJobs those that are remembered.
	maxJobs  = 4
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

// Close stops the jobs that run and waits for them, or for ctx.
func (s *Service) Close(ctx context.Context) error {
	s.jobs.cancel()
	stopped := make(chan struct{})
	go func() { s.jobs.wg.Wait(); close(stopped) }()
	select {
	case <-stopped:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("stop redriving and purging: %w", ctx.Err())
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
	request.Filter.Limit, request.Filter.Data, request.Filter.After = jobStep, false, 0
	if request.Rate > 0 {
		request.Filter.Limit = max(1, min(jobStep, int(request.Rate)))
	}
	if _, err := s.inspect(ctx, request.Filter.Bucket); err != nil {
		return Job{}, err
	}
	// What dies again while the job runs is not for this run.
	now := s.opts.Clock.Now()
	if before := request.Filter.Before; before.IsZero() || before.After(now) {
		request.Filter.Before = now
	}
	s.jobs.mu.Lock()
	defer s.jobs.mu.Unlock()
	running := 0
	for _, j := range s.jobs.jobs {
		if j.State == JobRunning {
			running++
		}
	}
	if running == maxJobs || s.jobs.ctx.Err() != nil {
		return Job{}, refuse(http.StatusServiceUnavailable, "%d jobs run already: allowed: %d at once", running, maxJobs)
	}
	s.jobs.lastID++
	jobCtx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	unlink := context.AfterFunc(s.jobs.ctx, cancel)
	j := &runningJob{Job: Job{ID: s.jobs.lastID, JobRequest: request, State: JobRunning, Started: now}, cancel: cancel}
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

// run takes one bounded step after the other.
func (s *Service) run(ctx context.Context, j *runningJob) {
	err := s.steps(ctx, j)
	s.jobs.mu.Lock()
	defer s.jobs.mu.Unlock()
	ended := s.opts.Clock.Now()
	j.Ended = &ended
	switch {
	case err == nil:
		j.State = JobDone
	case ctx.Err() != nil:
		j.State = JobCanceled
	default:
		j.State, j.Error = JobFailed, err.Error()
	}
}

func (s *Service) steps(ctx context.Context, j *runningJob) error {
	filter := j.Filter
	for first := true; ; first = false {
		page, err := s.DeadLetters(ctx, filter)
		if err != nil {
			return err
		}
		if len(page.DeadLetters) > 0 {
			if j.Rate > 0 && !first {
				timer := s.opts.Clock.NewTimer(time.Duration(float64(len(page.DeadLetters)) / j.Rate * float64(time.Second)))
				select {
				case <-timer.Chan():
				case <-ctx.Done():
					timer.Stop()
					return ctx.Err()
				}
			}
			ids := make([]uint64, len(page.DeadLetters))
			for i := range page.DeadLetters {
				ids[i] = page.DeadLetters[i].ID
			}
			done, err := s.act(ctx, j.Action, IDsRequest{filter.Bucket, ids})
			if err != nil {
				return err
			}
			s.jobs.mu.Lock()
			j.Done += done
			j.Skipped += len(ids) - done
			s.jobs.mu.Unlock()
		}
		if page.Next == 0 {
			return nil
		}
		filter.After = page.Next
	}
}

func (s *Service) act(ctx context.Context, action JobAction, request IDsRequest) (done int, err error) {
	if action == JobPurge {
		result, err := s.Purge(ctx, request)
		return result.Purged, err
	}
	result, err := s.Redrive(ctx, request)
	return len(result.Redriven), err
}

// Jobs lists the jobs.
func (s *Service) Jobs(context.Context) (Jobs, error) {
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
	s.jobs.mu.Lock()
	defer s.jobs.mu.Unlock()
	for _, j := range s.jobs.jobs {
		if j.ID == request.ID {
			return j.Job, nil
		}
	}
	return Job{}, fmt.Errorf("job %d: %w", request.ID, pubsub.ErrNotFound)
}

// CancelJob ends a job after the step that it is at.
func (s *Service) CancelJob(ctx context.Context, request JobRequestID) (Job, error) {
	s.jobs.mu.Lock()
	for _, j := range s.jobs.jobs {
		if j.ID == request.ID {
			j.cancel()
		}
	}
	s.jobs.mu.Unlock()
	return s.Job(ctx, request)
}
