package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/dapr-bolt/dapr-bolt/internal/admin"
)

func (c *cli) redriveCommand() *cobra.Command {
	var (
		sel  selection
		rate float64
	)
	cmd := &cobra.Command{
		Use:   "redrive [ID...]",
		Short: "Send dead letters back to their consumer groups",
		Long: `Send dead letters back to their consumer groups, at the end of the order and with the count of deliveries
reset. Name them by ID, or take --all and, if need be, filters.`,
		RunE: func(cmd *cobra.Command, args []string) error {
			return c.withClient(func(client *admin.Client) error {
				ids, err := c.chosen(cmd.Context(), client, &sel, args)
				if err != nil {
					return err
				}
				result, err := c.redrive(cmd.Context(), client, ids, rate)
				done := count(len(result.Redriven), "dead letter", "dead letters")
				if err != nil {
					return fmt.Errorf("%s of %d sent back: %w", done, len(ids), err)
				}
				if c.output == outputJSON {
					err = c.printJSON(result)
				} else {
					_, err = fmt.Fprintf(c.out, "%s sent back\n", done)
				}
				if err != nil {
					return err
				}
				unreadable := unreadable(result.Unreadable)
				if sel.all {
					if unreadable != nil {
						fmt.Fprintf(c.errOut, "skipped: %s\n", unreadable)
					}
					return nil
				}
				return errors.Join(unreadable, missing(ids, append(result.Redriven, result.Unreadable...)))
			})
		},
	}
	c.selectionFlags(cmd.Flags(), &sel, "all that the filters select")
	addFlag(cmd.Flags(), &rate, "rate", "", "count/unit", "send that many at most, such as 10/s, 30/m or 100/h", parseRate)
	return cmd
}

// redrive sends ids back, at most rate of them in a second (0: as fast as it goes), and returns what became of those that
// were there.
func (c *cli) redrive(ctx context.Context, client *admin.Client, ids []uint64, rate float64) (admin.RedriveResult, error) {
	step := admin.MaxIDs
	if rate > 0 {
		step = min(step, max(1, int(rate)))
	}
	done := admin.RedriveResult{Redriven: []uint64{}}
	first := true
	for batch := range slices.Chunk(ids, step) {
		if rate > 0 && !first {
			if err := c.wait(ctx, time.Duration(float64(step)/rate*float64(time.Second))); err != nil {
				return done, err
			}
		}
		first = false
		result, err := client.Redrive(ctx, c.scope(), batch)
		if err != nil {
			return done, err
		}
		done.Redriven = append(done.Redriven, result.Redriven...)
		done.Unreadable = append(done.Unreadable, result.Unreadable...)
	}
	return done, nil
}

func (c *cli) wait(ctx context.Context, d time.Duration) error {
	timer := c.clock.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.Chan():
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// unreadable says that ids cannot be sent back; nil if there are none.
func unreadable(ids []uint64) error {
	if len(ids) == 0 {
		return nil
	}
	return fmt.Errorf("cannot be redriven, as what is stored of the event cannot be read: %s: allowed: show and purge", list(ids))
}

func missing(ids, found []uint64) error {
	gone := slices.DeleteFunc(slices.Clone(ids), func(id uint64) bool { return slices.Contains(found, id) })
	if len(gone) == 0 {
		return nil
	}
	return fmt.Errorf("not among the dead letters: %s", list(gone))
}

func list(ids []uint64) string {
	texts := make([]string, len(ids))
	for i, id := range ids {
		texts[i] = strconv.FormatUint(id, 10)
	}
	return strings.Join(texts, ", ")
}

func (c *cli) purgeCommand() *cobra.Command {
	var (
		sel selection
		yes bool
	)
	cmd := &cobra.Command{
		Use:   "purge [ID...]",
		Short: "Remove dead letters for good",
		Long:  `Remove dead letters for good. Name them by ID, or take --all and, if need be, filters. It asks first.`,
		RunE: func(cmd *cobra.Command, args []string) error {
			return c.withClient(func(client *admin.Client) error {
				ids, err := c.chosen(cmd.Context(), client, &sel, args)
				if err != nil {
					return err
				}
				if !yes && len(ids) > 0 {
					if err := c.confirm(fmt.Sprintf("Remove %s for good?", count(len(ids), "dead letter", "dead letters"))); err != nil {
						return err
					}
				}
				purged := 0
				for batch := range slices.Chunk(ids, admin.MaxIDs) {
					result, err := client.Purge(cmd.Context(), c.scope(), batch)
					if err != nil {
						return fmt.Errorf("%s of %d removed: %w", count(purged, "dead letter", "dead letters"), len(ids), err)
					}
					purged += result.Purged
				}
				if c.output == outputJSON {
					err = c.printJSON(admin.PurgeResult{Purged: purged})
				} else {
					_, err = fmt.Fprintf(c.out, "%s removed\n", count(purged, "dead letter", "dead letters"))
				}
				if err == nil && !sel.all && purged < len(ids) {
					err = fmt.Errorf("%d of the %d IDs were not among the dead letters", len(ids)-purged, len(ids))
				}
				return err
			})
		},
	}
	c.selectionFlags(cmd.Flags(), &sel, "all that the filters select")
	cmd.Flags().BoolVar(&yes, "yes", false, "do not ask")
	return cmd
}
