package main

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"github.com/dapr-bolt/dapr-bolt/internal/admin"
	"github.com/dapr-bolt/dapr-bolt/internal/cause"
	"github.com/dapr-bolt/dapr-bolt/internal/sidecars"
)

const (
	// completeWithin bounds what a person waits for after the Tab key.
	completeWithin = 2 * time.Second
	// mostCompletions is how many ids are offered at most.
	mostCompletions = 100
)

// completion asks the process what can stand next on a command line. Without a process nothing can.
func (c *cli) completion(offer func(ctx context.Context, args []string) ([]string, error)) cobra.CompletionFunc {
	return func(cmd *cobra.Command, args []string, _ string) (offers []string, _ cobra.ShellCompDirective) {
		// Cobra runs no PersistentPreRunE before a completion.
		err := c.prepare(cmd)
		if err == nil {
			ctx, cancel := context.WithTimeout(cmd.Context(), completeWithin)
			defer cancel()
			err = c.withClient(func() (err error) {
				offers, err = offer(ctx, args)
				return err
			})
		}
		if err != nil {
			cobra.CompDebugln(err.Error(), false)
		}
		slices.Sort(offers)
		return slices.Compact(offers), cobra.ShellCompDirectiveNoFileComp
	}
}

// completeArgs completes arguments that begin with a TOPIC, and perhaps its GROUP, or are ids of dead letters.
func (c *cli) completeArgs(names []string) cobra.CompletionFunc {
	switch {
	case slices.Contains(names, "TOPIC"):
		return c.eachTopic(func(t *admin.TopicStats, args []string) []string {
			switch {
			case len(args) == 0:
				return []string{t.Topic}
			case len(args) == 1 && t.Topic == args[0] && slices.Contains(names, "GROUP"):
				return groupsOf(t, nil)
			}
			return nil
		})
	case slices.Contains(names, "ID"):
		return c.completeIDs(1)
	case slices.Contains(names, "[ID...]"):
		return c.completeIDs(mostCompletions)
	}
	return nil
}

// eachTopic returns what pick takes of each topic in the buckets that the flags name.
func (c *cli) eachTopic(pick func(t *admin.TopicStats, args []string) []string) cobra.CompletionFunc {
	return c.completion(func(ctx context.Context, args []string) (offers []string, err error) {
		topics, err := admin.CallTopics.Ask(ctx, c.client, admin.TopicsRequest{Bucket: c.bucket, Limit: admin.MaxPageSize})
		for i := range topics.Topics {
			offers = append(offers, pick(&topics.Topics[i], args)...)
		}
		return offers, err
	})
}

func topicOf(t *admin.TopicStats, _ []string) []string { return []string{t.Topic} }

func groupsOf(t *admin.TopicStats, _ []string) (names []string) {
	for _, g := range t.Groups {
		names = append(names, g.Group)
	}
	return names
}

// completeIDs completes the ids of dead letters that are not named yet, at most so many in all.
func (c *cli) completeIDs(most int) cobra.CompletionFunc {
	return c.completion(func(ctx context.Context, args []string) (offers []string, err error) {
		if len(args) >= most {
			return nil, nil
		}
		page, err := admin.CallDeadLetters.Ask(ctx, c.client, admin.ListOptions{Bucket: c.bucket, Limit: mostCompletions})
		for _, d := range page.DeadLetters {
			if id := strconv.FormatUint(d.ID, 10); !slices.Contains(args, id) {
				offers = append(offers, fmt.Sprintf("%s\t%s, %s: %s", id, d.Topic, d.Group, c.cell(cause.Of(d.LastError)).text))
			}
		}
		return offers, err
	})
}

// completeBucket completes --database and --bucket.
func (c *cli) completeBucket(kind sidecars.Kind, pick func(admin.Bucket) string) cobra.CompletionFunc {
	return c.completion(func(ctx context.Context, _ []string) (offers []string, err error) {
		buckets, err := admin.CallBuckets.Ask(ctx, c.client, admin.Empty{})
		ofKind := buckets.Buckets
		if kind == sidecars.State {
			ofKind = buckets.State
		}
		for _, bucket := range ofKind {
			offers = append(offers, pick(bucket))
		}
		return offers, err
	})
}

// completeFlag says how a flag's value is completed. That the flag is there is the caller's promise.
func completeFlag(cmd *cobra.Command, name string, with cobra.CompletionFunc) {
	if err := cmd.RegisterFlagCompletionFunc(name, with); err != nil {
		panic(err)
	}
}
