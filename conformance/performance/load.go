package performance

import (
	"context"
	"slices"
	"sync"
	"time"
)

// outcome is what a number of clients got done.
type outcome struct {
	done      int
	elapsed   time.Duration
	latencies []time.Duration
	errors    int
	first     error
}

// add counts what other got done as well, and its time.
func (o *outcome) add(other *outcome) {
	o.done += other.done
	o.elapsed += other.elapsed
	o.latencies = append(o.latencies, other.latencies...)
	o.errors += other.errors
	if o.first == nil {
		o.first = other.first
	}
}

func (o *outcome) sample(cell Cell, round int) Sample {
	s := Sample{Cell: cell, Round: round, Errors: o.errors}
	if o.first != nil {
		s.Error = o.first.Error()
	}
	if o.elapsed > 0 {
		s.PerSecond = float64(o.done) / o.elapsed.Seconds()
	}
	s.P50, s.P99 = quantile(o.latencies, 0.50), quantile(o.latencies, 0.99)
	return s
}

// quantile sorts the latencies.
func quantile(latencies []time.Duration, q float64) time.Duration {
	if len(latencies) == 0 {
		return 0
	}
	slices.Sort(latencies)
	return latencies[min(int(q*float64(len(latencies))), len(latencies)-1)]
}

// operation is a call of a client, which is told its number and how many calls it made before.
type operation func(ctx context.Context, client, call int) error

// closedLoop lets clients call op again and again, each in its own goroutine. What ends within duration, counted from
// the end of warmUp, is measured.
func closedLoop(ctx context.Context, clients int, warmUp, duration time.Duration, op operation) outcome {
	start := time.Now().Add(warmUp)
	end := start.Add(duration)
	outcomes := make([]outcome, clients)
	var group sync.WaitGroup
	for client := range clients {
		group.Go(func() {
			o := &outcomes[client]
			for call := 0; ctx.Err() == nil; call++ {
				before := time.Now()
				if !before.Before(end) {
					return
				}
				err := op(ctx, client, call)
				after := time.Now()
				switch {
				case err != nil:
					o.errors++
					if o.first == nil {
						o.first = err
					}
				case after.After(start) && !after.After(end):
					o.done++
					o.latencies = append(o.latencies, after.Sub(before))
				}
			}
		})
	}
	group.Wait()
	total := outcome{elapsed: duration}
	for i := range outcomes {
		total.add(&outcomes[i])
	}
	return total
}

// openLoop calls op at a steady rate, whether or not earlier calls have returned, and passes the moment at which the
// call was due. A call that no worker was free for starts late, and its lateness counts.
func openLoop(ctx context.Context, perSecond int, duration time.Duration, op func(ctx context.Context, call int, due time.Time) error) (calls, errors int, first error) {
	const workers = 128
	type order struct {
		call int
		due  time.Time
	}
	orders := make(chan order, perSecond)
	var mu sync.Mutex
	var group sync.WaitGroup
	for range workers {
		group.Go(func() {
			for o := range orders {
				if err := op(ctx, o.call, o.due); err != nil {
					mu.Lock()
					errors++
					if first == nil {
						first = err
					}
					mu.Unlock()
				}
			}
		})
	}
	start, interval := time.Now(), time.Second/time.Duration(perSecond)
	total := int(duration / interval)
	for ; calls < total && ctx.Err() == nil; calls++ {
		due := start.Add(time.Duration(calls) * interval)
		time.Sleep(time.Until(due))
		orders <- order{calls, due}
	}
	close(orders)
	group.Wait()
	return calls, errors, first
}
