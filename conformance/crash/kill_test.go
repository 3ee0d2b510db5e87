package crash

import (
	"context"
	"fmt"
	"math/rand/v2"
	"time"
)

const (
	// startKillEvery makes about each so many-th kill hit the process while it starts, at most startKillWithin after it
	// was started.
	startKillEvery  = 10
	startKillWithin = 100 * time.Millisecond
	// checkEvery is after how many kills the file is read page by page.
	checkEvery = 25
	// progressEvery is after how many kills a line says how far it has come.
	progressEvery = 50
)

// killOnce lets the process work for a while, kills it, and starts it again.
func (r *run) killOnce(ctx context.Context) error {
	if rand.IntN(startKillEvery) == 0 && r.report.Kills > 0 {
		return r.killAtStart(ctx)
	}
	if err := r.waitForAcks(ctx, rand.Int64N(int64(r.MostAcks))); err != nil {
		return err
	}
	if err := r.kill(ctx); err != nil {
		return err
	}
	return r.restart(ctx)
}

// killAtStart kills the process twice: in the middle of work, and while it comes back.
func (r *run) killAtStart(ctx context.Context) error {
	if err := r.kill(ctx); err != nil {
		return err
	}
	if r.report.Kills < r.Kills {
		if err := r.Victim.Start(); err != nil {
			return err
		}
		pause(ctx, time.Duration(rand.Int64N(int64(startKillWithin))))
		r.report.KillsAtStart++
		if err := r.kill(ctx); err != nil {
			return err
		}
	}
	return r.restart(ctx)
}

func (r *run) kill(ctx context.Context) error {
	r.Victim.Kill()
	r.life.Add(1)
	r.report.Kills++
	if r.report.Kills%progressEvery == 0 {
		fmt.Fprintf(r.Progress, "%d of %d kills, %d acknowledgements\n", r.report.Kills, r.Kills, r.acked.Load())
	}
	if r.report.Kills%checkEvery == 0 {
		return r.check(ctx)
	}
	return nil
}

func (r *run) restart(ctx context.Context) error {
	if err := r.Victim.Restart(ctx); err != nil {
		return fmt.Errorf("after %d kills: %w", r.report.Kills, err)
	}
	return nil
}

// check reads the file, which no process has open, page by page.
func (r *run) check(ctx context.Context) error {
	r.report.Checks++
	var report struct {
		Sound    bool
		Problems []string
	}
	err := r.Bolt.Command(ctx, &report, "check")
	if err != nil && len(report.Problems) == 0 {
		// A file that is not sound is an error of the command as well.
		r.found.add(DamagedFile, "after %d kills: %v", r.report.Kills, err)
		return nil
	}
	for _, problem := range report.Problems {
		r.found.add(DamagedFile, "after %d kills: %s", r.report.Kills, problem)
	}
	return nil
}
