package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/dapr-bolt/dapr-bolt/internal/admin"
	"github.com/dapr-bolt/dapr-bolt/internal/sidecars"
)

func (c *cli) stateCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "state",
		Short: "Look into the state of apps, query it, and change single keys",
		Long: `Look into the state of apps, query it, and change single keys. Dapr puts the app's id and || before the keys of an
app: todo-api||order-1.`,
		Args: subcommandArgs,
		RunE: needsSubcommand,
	}
	c.outputFlag(cmd, cmd.PersistentFlags())
	c.bucketFlags(cmd, sidecars.State, "")
	cmd.AddCommand(c.stateListCommand(), c.stateAppsCommand(), c.stateGetCommand(), c.stateSetCommand(), c.stateDeleteCommand(),
		c.stateQueryCommand(), c.stateIndexesCommand(), c.stateIdempotencyCommand())
	return cmd
}

// pageFlags are those of lists that say themselves where they go on.
func (c *cli) pageFlags(cmd *cobra.Command, page *admin.PageRequest) {
	page.Limit = admin.DefaultPageSize
	cmd.Flags().StringVar(&page.After, "after", "", "continue after this")
	addFlag(cmd.Flags(), &page.Limit, "limit", strconv.Itoa(page.Limit), "count", "how many to list at most", parseLimit)
}

func (c *cli) stateListCommand() *cobra.Command {
	var request admin.KeysRequest
	cmd := &cobra.Command{
		Use:   "list [PREFIX]",
		Short: "List keys, in the order of their bytes",
		Args:  atMostOneArg("PREFIX"),
		RunE: func(cmd *cobra.Command, args []string) error {
			request.Bucket, request.Prefix = c.bucket, strings.Join(args, "")
			return ask(cmd.Context(), c, admin.CallKeys, request, func(page admin.KeyPage) error {
				var rows [][]cell
				for _, k := range page.Keys {
					rows = append(rows, []cell{textCell(k.Key), textCell(k.ETag), {text: byteSize(int64(k.Size))}, c.timeCell(zeroIfNil(k.Expires)), textCell(k.ContentType)})
				}
				next := ""
				if page.Next != "" {
					next = "--after " + strconv.Quote(page.Next)
				}
				return c.printPage([]string{"KEY", "ETAG", "SIZE", "EXPIRES", "CONTENT TYPE"}, rows, "no keys", next)
			})
		},
	}
	c.pageFlags(cmd, &request.PageRequest)
	return cmd
}

func zeroIfNil(t *time.Time) time.Time {
	if t == nil {
		return time.Time{}
	}
	return *t
}

func (c *cli) stateAppsCommand() *cobra.Command {
	var request admin.PageRequest
	cmd := &cobra.Command{
		Use:   "apps",
		Short: "List the apps that have keys",
		Args:  noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			request.Bucket = c.bucket
			return ask(cmd.Context(), c, admin.CallApps, request, func(page admin.Apps) error {
				var rows [][]cell
				for _, app := range page.Apps {
					rows = append(rows, []cell{textCell(app)})
				}
				return c.printPage([]string{"APP"}, rows, "no apps", nextFlag("after", page.Next))
			})
		},
	}
	c.pageFlags(cmd, &request)
	return cmd
}

func (c *cli) stateGetCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "get KEY",
		Short: "Print the value of a key; --output json has its ETag and the rest, too",
		Args:  exactArgs("KEY"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return ask(cmd.Context(), c, admin.CallValue, admin.KeyRequest{Bucket: c.bucket, Key: args[0]}, func(value admin.Value) error {
				text, err := readable(&admin.Event{Content: value.Content})
				if err != nil {
					return err
				}
				if value.DataEncoding == admin.DataBase64 {
					fmt.Fprintln(c.errOut, "the value is no text: this is its base64")
				}
				_, err = fmt.Fprintln(c.out, text)
				return err
			})
		},
	}
}

func (c *cli) stateSetCommand() *cobra.Command {
	var (
		request admin.SetRequest
		file    string
	)
	cmd := &cobra.Command{
		Use:   "set KEY [VALUE]",
		Short: "Set a key that is new, or in the version that --etag names",
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) < 1 || len(args) > 2 {
				return usagef("there are %d arguments: allowed: KEY, and VALUE or --file", len(args))
			}
			return checkText("KEY", args[0])
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			value, err := c.content(args[1:], file)
			if err != nil {
				return err
			}
			request.Bucket, request.Key, request.Content = c.bucket, args[0], admin.ExactContent(value)
			return c.withClient(func(client *admin.Client) error {
				key, err := admin.CallSetValue.Ask(cmd.Context(), client, request)
				if err != nil {
					return err
				}
				return c.say(key, "%s: etag %s\n", harmless(key.Key), key.ETag)
			})
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&file, "file", "", "read the value from this file; -: from the standard input")
	flags.StringVar(&request.ETag, "etag", "", "the version that the key must be in")
	flags.BoolVar(&request.Force, "force", false, "set it whatever is there")
	flags.StringVar(&request.ContentType, "content-type", "", "the value's content type")
	addFlag(flags, &request.TTLInSeconds, "ttl", "0", "int", "seconds after which the key is gone; 0: it stays", parseSeconds)
	return cmd
}

func parseSeconds(text string) (int, error) {
	seconds, err := strconv.ParseUint(text, 10, 31)
	if err != nil {
		return 0, errors.New("allowed: seconds, 0 or more")
	}
	return int(seconds), nil
}

func (c *cli) stateDeleteCommand() *cobra.Command {
	var request admin.DeleteRequest
	cmd := &cobra.Command{
		Use:   "delete KEY",
		Short: "Delete a key that is in the version that --etag names",
		Args:  exactArgs("KEY"),
		RunE: func(cmd *cobra.Command, args []string) error {
			request.Bucket, request.Key = c.bucket, args[0]
			if request.ETag == "" && !request.Force {
				return usagef("there is no --etag: allowed: the key's, as list shows it, or --force")
			}
			return c.withClient(func(client *admin.Client) error {
				if _, err := admin.CallDeleteValue.Ask(cmd.Context(), client, request); err != nil {
					return err
				}
				return c.say(map[string]string{"key": request.Key}, "%s: deleted\n", harmless(request.Key))
			})
		},
	}
	cmd.Flags().StringVar(&request.ETag, "etag", "", "the version that the key must be in")
	cmd.Flags().BoolVar(&request.Force, "force", false, "delete it whatever is there")
	return cmd
}

func (c *cli) stateQueryCommand() *cobra.Command {
	var file string
	cmd := &cobra.Command{
		Use:     "query [QUERY]",
		Short:   "Run a query in the JSON of Dapr's state API, and say whether an index has served it",
		Example: `  dapr-bolt state query '{"filter":{"EQ":{"city":"Rome"}},"sort":[{"key":"name","order":"ASC"}],"page":{"limit":10}}'`,
		Args:    atMostOneArg("QUERY"),
		RunE: func(cmd *cobra.Command, args []string) error {
			query, err := c.content(args, file)
			if err != nil {
				return err
			}
			if !json.Valid(query) {
				return usagef("invalid QUERY: allowed: JSON with filter, sort and page")
			}
			return ask(cmd.Context(), c, admin.CallQuery, admin.QueryRequest{Bucket: c.bucket, Query: query}, func(result admin.QueryResult) error {
				var rows [][]cell
				for i := range result.Items {
					value := &result.Items[i]
					text, err := readable(&admin.Event{Content: value.Content})
					if err != nil {
						return err
					}
					rows = append(rows, []cell{textCell(value.Key.Key), textCell(value.ETag), textCell(text)})
				}
				if err := c.printPage([]string{"KEY", "ETAG", "VALUE"}, rows, "nothing found", ""); err != nil {
					return err
				}
				by := "every value was read"
				if result.Index != "" {
					by = "served by the index on " + result.Index
				}
				fmt.Fprintf(c.errOut, "%s, in %s\n", by, result.Took.Round(time.Microsecond))
				if result.Token != "" {
					fmt.Fprintf(c.errOut, "there are more: page.token %q in the query asks for the next page\n", result.Token)
				}
				return nil
			})
		},
	}
	cmd.Flags().StringVar(&file, "file", "", "read the query from this file; -: from the standard input")
	return cmd
}

func (c *cli) stateIndexesCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "indexes",
		Short: "List the indexes of the bucket, and how far they are built",
		Args:  noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return ask(cmd.Context(), c, admin.CallStateBucket, c.bucket, func(info admin.StateInfo) error {
				var rows [][]cell
				for _, x := range info.Indexes {
					state := "complete"
					if !x.Complete {
						state = fmt.Sprintf("building, %d keys done", x.Keys)
					}
					rows = append(rows, []cell{textCell(x.Path), {text: state}, c.timeCell(x.Expires)})
				}
				return c.printPage([]string{"PATH", "STATE", "EXPIRES"}, rows, "no indexes", "")
			})
		},
	}
}

func (c *cli) stateIdempotencyCommand() *cobra.Command {
	var request admin.PageRequest
	cmd := &cobra.Command{
		Use:   "idempotency-keys",
		Short: "List the idempotency keys that are remembered, by their SHA-256",
		Args:  noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			request.Bucket = c.bucket
			return ask(cmd.Context(), c, admin.CallIdempotencyKeys, request, func(page admin.IdempotencyPage) error {
				var rows [][]cell
				for _, k := range page.Keys {
					rows = append(rows, []cell{{text: k.SHA256}, c.timeCell(k.Expires)})
				}
				return c.printPage([]string{"SHA-256", "EXPIRES"}, rows, "no idempotency keys", nextFlag("after", page.Next))
			})
		},
	}
	c.pageFlags(cmd, &request)
	return cmd
}
