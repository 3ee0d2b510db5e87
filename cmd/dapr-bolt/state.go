package main

import (
	"context"
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
	cmd := c.family("state", "Look into the state of apps, query it, and change single keys", sidecars.State, "")
	cmd.Long = `Look into the state of apps, query it, and change single keys. Dapr puts the app's id and || before the keys of an
app: todo-api||order-1.`
	cmd.AddCommand(c.stateListCommand(), c.stateAppsCommand(), c.stateGetCommand(), c.stateSetCommand(), c.stateDeleteCommand(),
		c.stateQueryCommand(), c.stateIndexesCommand(), c.stateIdempotencyCommand())
	return cmd
}

// pageFlags are those of lists that say themselves where they go on.
func pageFlags(cmd *cobra.Command, page *admin.PageRequest) {
	cmd.Flags().StringVar(&page.After, "after", "", "continue after this")
	limitFlag(cmd, &page.Limit)
}

func (c *cli) stateListCommand() *cobra.Command {
	var request admin.KeysRequest
	cmd := c.command("list [PREFIX]", "List keys, in the order of their bytes", func(ctx context.Context, args []string) error {
		request.Bucket, request.Prefix = c.bucket, strings.Join(args, "")
		return ask(ctx, c, admin.CallKeys, request, func(page admin.KeyPage) error {
			next := ""
			if page.Next != "" {
				next = "--after " + strconv.Quote(page.Next)
			}
			return list(c, "KEY  ETAG  SIZE  EXPIRES  CONTENT TYPE", page.Keys, "no keys", next, func(k *admin.Key) []any {
				return []any{k.Key, k.ETag, size(k.Size), k.Expires, k.ContentType}
			})
		})
	})
	pageFlags(cmd, &request.PageRequest)
	return cmd
}

func (c *cli) stateAppsCommand() *cobra.Command {
	var request admin.PageRequest
	cmd := c.command("apps", "List the apps that have keys", func(ctx context.Context, _ []string) error {
		request.Bucket = c.bucket
		return ask(ctx, c, admin.CallApps, request, func(page admin.Apps) error {
			return list(c, "APP", page.Apps, "no apps", nextFlag("after", page.Next), func(app *string) []any { return []any{*app} })
		})
	})
	pageFlags(cmd, &request)
	return cmd
}

func (c *cli) stateGetCommand() *cobra.Command {
	return c.command("get KEY", "Print the value of a key; --output json has its ETag and the rest, too", func(ctx context.Context, args []string) error {
		return ask(ctx, c, admin.CallValue, admin.KeyRequest{Bucket: c.bucket, Key: args[0]}, func(value admin.Value) error {
			text, err := readable(value.Content)
			if err != nil {
				return err
			}
			if value.DataEncoding == admin.DataBase64 {
				fmt.Fprintln(c.errOut, "the value is no text: this is its base64")
			}
			return c.printf("%s\n", text)
		})
	})
}

func (c *cli) stateSetCommand() *cobra.Command {
	var (
		request admin.SetRequest
		file    string
	)
	cmd := c.command("set KEY [VALUE]", "Set a key that is new, or in the version that --etag names", func(ctx context.Context, args []string) error {
		value, err := c.content(args[1:], file)
		if err != nil {
			return err
		}
		request.Bucket, request.Key, request.Content = c.bucket, args[0], admin.ExactContent(value)
		return ask(ctx, c, admin.CallSetValue, request, func(key admin.Key) error {
			return c.printf("%s: etag %s\n", harmless(key.Key), key.ETag)
		})
	})
	flags := cmd.Flags()
	flags.StringVar(&file, "file", "", "read the value from this file; -: from the standard input")
	flags.StringVar(&request.ETag, "etag", "", "the version that the key must be in")
	flags.BoolVar(&request.Force, "force", false, "set it whatever is there")
	flags.StringVar(&request.ContentType, "content-type", "", "the value's content type")
	addFlag(flags, &request.TTLInSeconds, "ttl", "int", "seconds after which the key is gone; 0: it stays", parseSeconds)
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
	cmd := c.command("delete KEY", "Delete a key that is in the version that --etag names", func(ctx context.Context, args []string) error {
		request.Bucket, request.Key = c.bucket, args[0]
		if request.ETag == "" && !request.Force {
			return usagef("there is no --etag: allowed: the key's, as list shows it, or --force")
		}
		return do(ctx, c, admin.CallDeleteValue, request, map[string]string{"key": request.Key}, "%s: deleted\n", harmless(request.Key))
	})
	cmd.Flags().StringVar(&request.ETag, "etag", "", "the version that the key must be in")
	cmd.Flags().BoolVar(&request.Force, "force", false, "delete it whatever is there")
	return cmd
}

func (c *cli) stateQueryCommand() *cobra.Command {
	var file string
	cmd := c.command("query [QUERY]", "Run a query in the JSON of Dapr's state API, and say whether an index has served it", func(ctx context.Context, args []string) error {
		query, err := c.content(args, file)
		if err != nil {
			return err
		}
		if !json.Valid(query) {
			return usagef("invalid QUERY: allowed: JSON with filter, sort and page")
		}
		return ask(ctx, c, admin.CallQuery, admin.QueryRequest{Bucket: c.bucket, Query: query}, c.printResult)
	})
	cmd.Example = `  dapr-bolt state query '{"filter":{"EQ":{"city":"Rome"}},"sort":[{"key":"name","order":"ASC"}],"page":{"limit":10}}'`
	cmd.Flags().StringVar(&file, "file", "", "read the query from this file; -: from the standard input")
	return cmd
}

func (c *cli) printResult(result admin.QueryResult) error {
	var rows [][]any
	for _, value := range result.Items {
		text, err := readable(value.Content)
		if err != nil {
			return err
		}
		rows = append(rows, []any{value.Key.Key, value.ETag, text})
	}
	if err := c.printPage("KEY  ETAG  VALUE", rows, "nothing found", ""); err != nil {
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
}

func (c *cli) stateIndexesCommand() *cobra.Command {
	return c.command("indexes", "List the indexes of the bucket, and how far they are built", func(ctx context.Context, _ []string) error {
		return ask(ctx, c, admin.CallStateBucket, c.bucket, func(info admin.StateInfo) error {
			return list(c, "PATH  STATE  EXPIRES", info.Indexes, "no indexes", "", func(x *admin.Index) []any {
				state := "complete"
				if !x.Complete {
					state = fmt.Sprintf("building, %d keys done", x.Keys)
				}
				return []any{x.Path, cell{text: state}, x.Expires}
			})
		})
	})
}

func (c *cli) stateIdempotencyCommand() *cobra.Command {
	var request admin.PageRequest
	cmd := c.command("idempotency-keys", "List the idempotency keys that are remembered, by their SHA-256", func(ctx context.Context, _ []string) error {
		request.Bucket = c.bucket
		return ask(ctx, c, admin.CallIdempotencyKeys, request, func(page admin.IdempotencyPage) error {
			return list(c, "SHA-256  EXPIRES", page.Keys, "no idempotency keys", nextFlag("after", page.Next), func(k *admin.IdempotencyKey) []any {
				return []any{cell{text: k.SHA256}, k.Expires}
			})
		})
	})
	pageFlags(cmd, &request)
	return cmd
}
