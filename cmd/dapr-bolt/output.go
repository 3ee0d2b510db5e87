package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/dapr-bolt/dapr-bolt/internal/admin"
)

// ask makes a call of the process, and prints its answer.
func ask[R, A any](ctx context.Context, c *cli, call admin.Call[R, A], request R, text func(answer A) error) error {
	answer, err := call.Ask(ctx, c.client, request)
	return show(c, answer, err, text)
}

// do makes a call of the process that has no answer, and says what was done.
func do[R any](ctx context.Context, c *cli, call admin.Call[R, admin.Empty], request R, done any, format string, args ...any) error {
	if _, err := call.Ask(ctx, c.client, request); err != nil {
		return err
	}
	return c.say(done, format, args...)
}

// show prints what was learnt, unless err says why nothing was: as JSON, or as text does.
func show[A any](c *cli, answer A, err error, text func(answer A) error) error {
	if err != nil {
		return err
	}
	if c.output == outputJSON {
		return c.printJSON(answer)
	}
	return text(answer)
}

// say prints what was done: fields as JSON, or the text.
func (c *cli) say(fields any, format string, args ...any) error {
	return show(c, fields, nil, func(any) error { return c.printf(format, args...) })
}

func (c *cli) printf(format string, args ...any) error {
	_, err := fmt.Fprintf(c.out, format, args...)
	return err
}

// nextFlag says how to list the next page; empty: there is none.
func nextFlag[T comparable](flag string, next T) string {
	var none T
	if next == none {
		return ""
	}
	return fmt.Sprintf("--%s %v", flag, next)
}

func (c *cli) printJSON(v any) error {
	enc := json.NewEncoder(c.out)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", "  ")
	return enc.Encode(v)
}

func count[N int | uint64](n N, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return fmt.Sprintf("%d %s", n, many)
}

func (c *cli) yesFlag(cmd *cobra.Command) {
	cmd.Flags().BoolVar(&c.yes, "yes", false, "do not ask")
}

// confirm asks the person at the terminal, unless --yes was given. Where there is no terminal, it must have been.
func (c *cli) confirm(format string, args ...any) error {
	question := fmt.Sprintf(format, args...)
	if c.yes {
		return nil
	}
	if !c.interactive {
		return usagef("%s There is no terminal to ask on: add --yes to go ahead", question)
	}
	fmt.Fprintf(c.errOut, "%s [y/N] ", question)
	answer, err := bufio.NewReader(c.in).ReadString('\n')
	if err != nil && answer == "" {
		return fmt.Errorf("nothing was changed: no answer: %w", err)
	}
	switch strings.ToLower(strings.TrimSpace(answer)) {
	case "y", "yes":
		return nil
	}
	return fmt.Errorf("nothing was changed")
}

func (c *cli) sayMissing(missing string) {
	if missing != "" {
		fmt.Fprintln(c.errOut, "left out:", missing)
	}
}

// readable lays JSON out, leaves text as it is, and shows anything else in base64.
func readable(content admin.Content) (string, error) {
	if content.DataEncoding == admin.DataJSON {
		var laidOut bytes.Buffer
		err := json.Indent(&laidOut, content.Data, "", "  ")
		return harmless(laidOut.String()), err
	}
	var text string
	err := json.Unmarshal(content.Data, &text)
	return harmless(text), err
}
