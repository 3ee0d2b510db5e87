package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/dapr-bolt/dapr-bolt/internal/admin"
	"github.com/dapr-bolt/dapr-bolt/internal/sidecars"
	"github.com/dapr-bolt/dapr-bolt/statestore"
)

func (c *cli) publishCommand() *cobra.Command {
	var (
		request  admin.PublishRequest
		metadata []string
		file     string
	)
	cmd := c.command("publish TOPIC [DATA]", "Publish an event to a topic, for a test", func(ctx context.Context, args []string) error {
		data, err := c.content(args[1:], file)
		if err != nil {
			return err
		}
		request.Bucket, request.Topic, request.Content = c.bucket, args[0], admin.ExactContent(data)
		if request.Metadata, err = parseMetadata(metadata); err != nil {
			return err
		}
		return ask(ctx, c, admin.CallPublish, request, func(result admin.PublishResult) error {
			known := fmt.Sprintf("id %q", result.ID)
			if result.ID == "" {
				known = "without an id: published again, it is stored again; --id names it"
			}
			return c.printf("published to %q, %s\n", request.Topic, known)
		})
	})
	cmd.Long = `Publish an event to a topic, for a test. DATA becomes the data of a CloudEvent, as Dapr makes of it, unless --raw is
given. Without DATA it is read from --file, or from the standard input with --file -. The event is stored under the limits that the
topic's publisher has set.`
	c.outputFlag(cmd, cmd.Flags())
	c.bucketFlags(cmd, sidecars.PubSub, "")
	flags := cmd.Flags()
	flags.StringVar(&file, "file", "", "read the data from this file; -: from the standard input")
	flags.BoolVar(&request.Raw, "raw", false, "publish the data as it is, in no CloudEvent")
	flags.StringVar(&request.ID, "id", "", "the event's id: one that was published with it lately is not stored again")
	flags.StringVar(&request.Source, "source", "", "the CloudEvent's source")
	flags.StringVar(&request.Type, "type", "", "the CloudEvent's type")
	flags.StringVar(&request.ContentType, "content-type", "", "the data's content type")
	flags.StringArrayVar(&metadata, "metadata", nil, "a key=value that travels with the event, or says when, such as deliverAfter=30s; may be given again")
	return cmd
}

// content is what an argument holds, or a file.
func (c *cli) content(args []string, file string) ([]byte, error) {
	switch {
	case len(args) > 0 && file != "":
		return nil, usagef("there are an argument and --file for the data: allowed: one of the two")
	case len(args) > 0:
		return []byte(args[0]), nil
	case file == "-":
		return readContent(c.in, file)
	case file != "":
		f, err := os.Open(file)
		if err != nil {
			return nil, err
		}
		defer f.Close()
		return readContent(f, file)
	}
	return nil, usagef("there is no data: allowed: an argument, or --file (-: the standard input)")
}

// readContent reads no more than a value or an event may have: a file of many gigabytes, or one that does not end, would take
// all memory.
func readContent(r io.Reader, file string) ([]byte, error) {
	data, err := io.ReadAll(io.LimitReader(r, statestore.MaxValueSize+1))
	if err == nil && len(data) > statestore.MaxValueSize {
		err = usagef("too much data in --file %s: allowed: at most %d bytes", file, statestore.MaxValueSize)
	}
	return data, err
}

func parseMetadata(pairs []string) (map[string]string, error) {
	metadata := map[string]string{}
	for _, pair := range pairs {
		key, value, ok := strings.Cut(pair, "=")
		if !ok || key == "" {
			return nil, usagef("invalid value %q for --metadata: allowed: key=value", pair)
		}
		metadata[key] = value
	}
	return metadata, nil
}
