package main

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/dapr-bolt/dapr-bolt/internal/admin"
)

func (c *cli) overviewCommand() *cobra.Command {
	cmd := c.command("overview", "Say how the process is, who is connected, and what needs a person", func(ctx context.Context, _ []string) error {
		o, err := admin.CallOverview.Ask(ctx, c.client, admin.Empty{})
		c.sayMissing(o.Missing)
		return show(c, o, err, c.printOverview)
	})
	c.outputFlag(cmd, cmd.Flags())
	return cmd
}

func (c *cli) printOverview(o admin.Overview) error {
	var b strings.Builder
	fmt.Fprintf(&b, "process %d (%s), up since %s\n", o.PID, o.Version, c.when(o.Started))
	for _, db := range o.Databases {
		fmt.Fprintf(&b, "database %s: %s, log %s\n", db.Name, admin.ByteSize(db.Size), admin.ByteSize(db.LogSize))
	}
	for _, s := range o.Sidecars {
		fmt.Fprintf(&b, "sidecar: %s component %s of app %q, %s, since %s\n", s.Kind, harmless(s.Component), harmless(s.App), harmless(s.Process), c.when(s.Since))
	}
	for _, a := range o.Attention {
		fmt.Fprintf(&b, "needs a person: %s\n", harmless(a.Text))
	}
	if len(o.Attention) == 0 {
		fmt.Fprintln(&b, "nothing needs a person")
	}
	return c.printf("%s", b.String())
}

func (c *cli) healthCommand() *cobra.Command {
	within := 10 * time.Second
	cmd := c.command("health", "Ask the process whether it serves and can write its databases", func(ctx context.Context, _ []string) error {
		ctx, cancel := context.WithTimeoutCause(ctx, within, fmt.Errorf("no answer within %s", within))
		defer cancel()
		if _, err := admin.CallReady.Ask(ctx, c.client, admin.Empty{}); err != nil {
			return err
		}
		return ask(ctx, c, admin.CallInfo, admin.Empty{}, func(info admin.Info) error {
			fmt.Fprintf(c.out, "process %d (%s) serves %s\n", info.PID, info.Version, info.Socket)
			for _, db := range info.Databases {
				fmt.Fprintf(c.out, "database %s: %s, %s\n", db.Name, db.Path, admin.ByteSize(db.Size))
			}
			return nil
		})
	})
	cmd.Long = `Ask the process whether it serves and can write its databases. The exit code is 0 if so, else 1, also
when the process does not answer in time.`
	c.outputFlag(cmd, cmd.Flags())
	addFlag(cmd.Flags(), &within, "timeout", "duration", "how long to wait for the answer", parseInterval)
	return cmd
}
