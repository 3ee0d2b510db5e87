package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"strings"

	"github.com/dapr-bolt/dapr-bolt/internal/admin"
)

// ask makes a call of the process, and prints its answer: as JSON, or as text does.
func ask[R, A any](ctx context.Context, c *cli, call admin.Call[R, A], request R, text func(answer A) error) error {
	return learn(c, func(client *admin.Client) (A, error) { return call.Ask(ctx, client, request) }, text)
}

// learn is ask where it takes more than a call.
func learn[A any](c *cli, from func(*admin.Client) (A, error), text func(answer A) error) error {
	return c.withClient(func(client *admin.Client) error {
		answer, err := from(client)
		if err != nil {
			return err
		}
		if c.output == outputJSON {
			return c.printJSON(answer)
		}
		return text(answer)
	})
}

// say prints what was done: fields as JSON, or the text.
func (c *cli) say(fields any, format string, args ...any) error {
	if c.output == outputJSON {
		return c.printJSON(fields)
	}
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

// printPage prints a table, or that it is empty, and how to go on.
func (c *cli) printPage(header []string, rows [][]cell, none, next string) error {
	if len(rows) == 0 && next == "" {
		_, err := fmt.Fprintln(c.errOut, none)
		return err
	}
	if len(rows) > 0 {
		if err := c.printTable(header, rows); err != nil {
			return err
		}
	}
	if next != "" {
		fmt.Fprintf(c.errOut, "there may be more: %s lists the next page\n", next)
	}
	return nil
}

func (c *cli) printJSON(v any) error {
	enc := json.NewEncoder(c.out)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", "  ")
	return enc.Encode(v)
}

func count(n int, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return fmt.Sprintf("%d %s", n, many)
}

// confirm asks the person at the terminal. Where there is none, --yes must have been given.
func (c *cli) confirm(question string) error {
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
func readable(e *admin.Event) (string, error) {
	if e.DataEncoding == admin.DataJSON {
		var laidOut bytes.Buffer
		err := json.Indent(&laidOut, e.Data, "", "  ")
		return harmless(laidOut.String()), err
	}
	var text string
	err := json.Unmarshal(e.Data, &text)
	return harmless(text), err
}
