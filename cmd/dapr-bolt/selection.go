package main

import (
	"context"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"github.com/dapr-bolt/dapr-bolt/internal/admin"
	"github.com/dapr-bolt/dapr-bolt/pubsub"
)

// selection is which dead letters a command works on.
type selection struct {
	topic, group, text, reason, cause string
	since, before                     time.Time
	all                               bool
	// rate bounds how many are changed in a second; 0: as fast as it goes.
	rate float64
}

func (c *cli) selectionFlags(cmd *cobra.Command, s *selection, all string) {
	flags := cmd.Flags()
	flags.SortFlags = false
	flags.StringVar(&s.topic, "topic", "", "only those of this topic")
	flags.StringVar(&s.group, "group", "", "only those of this consumer group")
	addFlag(flags, &s.since, "since", "time", "only those that died since then: a duration such as 24h, or an RFC 3339 time", parseSince(c.clock))
	addFlag(flags, &s.before, "before", "time", "only those that died before then, likewise", parseSince(c.clock))
	var reasons []string
	for _, reason := range pubsub.Reasons {
		reasons = append(reasons, string(reason))
	}
	addFlag(flags, &s.reason, "reason", "reason", "only those that died of this reason", oneOf(reasons...))
	flags.StringVar(&s.cause, "cause", "", "only those of this cause, as groups shows it")
	flags.StringVar(&s.text, "text", "", "only those whose payload, event id or errors hold this text")
	flags.BoolVar(&s.all, "all", false, all)
	completeFlag(cmd, "topic", c.eachTopic(topicOf))
	completeFlag(cmd, "group", c.eachTopic(groupsOf))
}

func (s *selection) filtered() bool {
	return *s != selection{all: s.all, rate: s.rate}
}

func (c *cli) listOptions(s *selection) admin.ListOptions {
	return admin.ListOptions{Bucket: c.bucket, Topic: s.topic, Group: s.group, Since: s.since, Before: s.before, Reason: pubsub.Reason(s.reason), Cause: s.cause, Text: s.text}
}

// chosen returns the ids that the command line names, by themselves or by --all and the filters. Those are read before
// anything is changed: what dies again while a command runs is not for that run.
func (c *cli) chosen(ctx context.Context, sel *selection, args []string) ([]uint64, error) {
	switch {
	case sel.all && len(args) > 0:
		return nil, usagef("there are IDs and --all: allowed: one of the two")
	case sel.all:
		var ids []uint64
		_, _, err := c.eachPage(ctx, []admin.Bucket{c.bucket}, c.listOptions(sel), func(letters []admin.DeadLetter) error {
			for i := range letters {
				ids = append(ids, letters[i].ID)
			}
			return nil
		})
		return ids, err
	case sel.filtered():
		return nil, usagef("--topic, --group, --since, --before, --reason, --cause and --text go with --all")
	case len(args) == 0:
		return nil, usagef("nothing is named: allowed: one ID or more, or --all")
	}
	var ids []uint64
	for _, arg := range args {
		id, err := parseIDArg("ID", arg)
		if err != nil {
			return nil, err
		}
		if !slices.Contains(ids, id) {
			ids = append(ids, id)
		}
	}
	return ids, nil
}

// buckets returns the bucket that the flags name, or all of them if they name none.
func (c *cli) buckets(ctx context.Context) ([]admin.Bucket, error) {
	if c.bucket != (admin.Bucket{}) {
		return []admin.Bucket{c.bucket}, nil
	}
	buckets, err := admin.CallBuckets.Ask(ctx, c.client, admin.Empty{})
	c.sayMissing(buckets.Missing)
	return buckets.Buckets, err
}

// eachPage calls fn with page after page, bucket after bucket, until opts.Limit dead letters were seen (0: all of them).
// It returns what to continue after in the last bucket, or 0 when that has no more, and the buckets that were not reached.
func (c *cli) eachPage(ctx context.Context, buckets []admin.Bucket, opts admin.ListOptions, fn func([]admin.DeadLetter) error) (next uint64, unseen []admin.Bucket, err error) {
	left, after := opts.Limit, opts.After
	for i, bucket := range buckets {
		for opts.Bucket, opts.After = bucket, after; ; {
			opts.Limit = admin.MaxPageSize
			if left > 0 {
				opts.Limit = left
			}
			page, err := admin.CallDeadLetters.Ask(ctx, c.client, opts)
			if err != nil {
				return 0, nil, err
			}
			if err := fn(page.DeadLetters); err != nil {
				return 0, nil, err
			}
			if left > 0 {
				if left -= len(page.DeadLetters); left == 0 {
					return page.Next, buckets[i+1:], nil
				}
			}
			if page.Next == 0 {
				break
			}
			opts.After = page.Next
		}
	}
	return 0, nil, nil
}
