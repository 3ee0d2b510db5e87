package console

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/jonboulle/clockwork"

	"github.com/dapr-bolt/dapr-bolt/internal/admin"
)

const (
	// maxJobs bounds the jobs that run at once, and keptJobs those that are remembered.
	maxJobs  = 4
	keptJobs = 32
	// jobStep is how many dead letters one step of a job takes.
	jobStep = 100
)

// job redrives or purges dead letters, as many as there are of a kind, in the background.
type job struct {
	ID    uint64
	Purge bool
	// What says which dead letters.
	What   selection
	Rate   float64 // per second; 0: as fast as it goes
	Began  time.Time
	cancel context.CancelFunc

	mu sync.Mutex
	jobState
}

// jobState changes while a job runs.
type jobState struct {
	// Total is how many it found; not known before Counted.
	Total   int
	Counted bool
	// Done were redriven or purged, Skipped were gone, or could not be read.
	Done, Skipped int
	// Ended is zero while it runs.
	Ended time.Time
	Err   string
}

func (j *job) state() jobState {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.jobState
}

func (j *job) change(fn func(s *jobState)) {
	j.mu.Lock()
	defer j.mu.Unlock()
	fn(&j.jobState)
}

// jobs runs them. It owns a goroutine for each.
type jobs struct {
	service *admin.Service
	clock   clockwork.Clock
	log     *slog.Logger
	ctx     context.Context
	cancel  context.CancelFunc
	running sync.WaitGroup

	mu   sync.Mutex
	last uint64
	all  []*job // oldest first
}

func newJobs(service *admin.Service, clock clockwork.Clock, log *slog.Logger) *jobs {
	j := &jobs{service: service, clock: clock, log: log}
	j.ctx, j.cancel = context.WithCancel(context.Background())
	return j
}

// stop ends all jobs and waits for them, at most until ctx ends.
func (js *jobs) stop(ctx context.Context) error {
	js.cancel()
	ended := make(chan struct{})
	go func() {
		js.running.Wait()
		close(ended)
	}()
	select {
	case <-ended:
		return nil
	case <-ctx.Done():
		return errors.Join(errors.New("a job of the console has not ended"), ctx.Err())
	}
}

// tooManyError refuses a job while as many run as may.
type tooManyError struct{}

func (tooManyError) Error() string {
	return "4 jobs are running: allowed: that many at once; stop one, or wait"
}

// start begins a job. who stands for the person in the log.
func (js *jobs) start(who string, purge bool, what selection, rate float64) (*job, error) {
	js.mu.Lock()
	defer js.mu.Unlock()
	running := 0
	for _, j := range js.all {
		if j.state().Ended.IsZero() {
			running++
		}
	}
	if running >= maxJobs || js.ctx.Err() != nil {
		return nil, tooManyError{}
	}
	js.last++
	ctx, cancel := context.WithCancel(admin.By(js.ctx, who))
	j := &job{ID: js.last, Purge: purge, What: what, Rate: rate, Began: js.clock.Now(), cancel: cancel}
	if js.all = append(js.all, j); len(js.all) > keptJobs {
		oldest := slices.IndexFunc(js.all, func(j *job) bool { return !j.state().Ended.IsZero() })
		js.all = slices.Delete(js.all, oldest, oldest+1)
	}
	js.running.Go(func() {
		defer cancel()
		err := js.run(ctx, j)
		s := j.state()
		js.log.Info("a job of the console ended", "by", who, "purge", purge, "of", s.Total, "done", s.Done, "skipped", s.Skipped, "error", err)
		j.change(func(s *jobState) {
			s.Ended = js.clock.Now()
			switch {
			case errors.Is(err, context.Canceled):
				s.Err = "it was stopped"
			case err != nil:
				s.Err = err.Error()
			}
		})
	})
	return j, nil
}

// find returns nil for a job that is not known any more.
func (js *jobs) find(id uint64) *job {
	js.mu.Lock()
	defer js.mu.Unlock()
	if i := slices.IndexFunc(js.all, func(j *job) bool { return j.ID == id }); i >= 0 {
		return js.all[i]
	}
	return nil
}

// run reads the ids before it changes anything: what dies again while a job runs is not for that job.
func (js *jobs) run(ctx context.Context, j *job) error {
	var ids []uint64
	err := j.What.each(ctx, js.service, func(d *admin.DeadLetter) bool {
		ids = append(ids, d.ID)
		return true
	})
	if err != nil {
		return err
	}
	j.change(func(s *jobState) { s.Total, s.Counted = len(ids), true })
	step := jobStep
	if j.Rate > 0 {
		step = min(step, max(1, int(j.Rate)))
	}
	for first := true; len(ids) > 0; first = false {
		if j.Rate > 0 && !first {
			timer := js.clock.NewTimer(time.Duration(float64(step) / j.Rate * float64(time.Second)))
			select {
			case <-timer.Chan():
			case <-ctx.Done():
				timer.Stop()
			}
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		request := admin.IDsRequest{Bucket: j.What.Bucket, IDs: ids[:min(step, len(ids))]}
		done, err := apply(ctx, js.service, j.Purge, request)
		if err != nil {
			return err
		}
		j.change(func(s *jobState) {
			s.Done += done
			s.Skipped += len(request.IDs) - done
		})
		ids = ids[len(request.IDs):]
	}
	return nil
}

// apply redrives or purges at most admin.MaxIDs dead letters, and returns how many that were.
func apply(ctx context.Context, service *admin.Service, purge bool, request admin.IDsRequest) (int, error) {
	if purge {
		result, err := service.Purge(ctx, request)
		return result.Purged, err
	}
	result, err := service.Redrive(ctx, request)
	return len(result.Redriven), err
}

// jobPage is what the page of a job shows.
type jobPage struct {
	*job
	State jobState
	// Handled is how many of State.Total are dealt with.
	Handled int
}

func (c *Console) job(r *http.Request) (*page, error) {
	j, err := c.jobOf(r)
	if err != nil {
		return nil, err
	}
	title := "Redrive"
	if j.Purge {
		title = "Purge"
	}
	s := j.state()
	return &page{Title: title, Section: sectionDeadLetters, Live: s.Ended.IsZero(), template: "job.html",
		Data: jobPage{j, s, s.Done + s.Skipped}}, nil
}

func (c *Console) jobOf(r *http.Request) (*job, error) {
	id, err := idOf(r.Form, "id")
	if err != nil {
		return nil, err
	}
	if j := c.jobs.find(id); j != nil {
		return j, nil
	}
	return nil, notFound("job %d is not known any more", id)
}

func (c *Console) stopJob(r *http.Request) (next, error) {
	j, err := c.jobOf(r)
	if err != nil {
		return next{}, err
	}
	j.cancel()
	c.log.Info("a job of the console was asked to stop", "from", r.RemoteAddr, "job", j.ID)
	return after("/job", idQuery(j.ID), "stopped"), nil
}
