package main

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/dapr-bolt/dapr-bolt/internal/admin"
)

func (c *cli) overviewCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "overview",
		Short: "Say how the process is, who is connected, and what needs a person",
		Args:  noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			look := func(client *admin.Client) (admin.Overview, error) {
				o, err := admin.CallOverview.Ask(cmd.Context(), client, admin.Empty{})
				c.sayMissing(o.Missing)
				return o, err
			}
			return learn(c, look, func(o admin.Overview) error {
				var b strings.Builder
				fmt.Fprintf(&b, "process %d (%s), up since %s\n", o.PID, o.Version, c.when(o.Started))
				for _, db := range o.Databases {
					fmt.Fprintf(&b, "database %s: %s, log %s\n", db.Name, byteSize(db.Size), byteSize(db.LogSize))
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
				_, err := fmt.Fprint(c.out, b.String())
				return err
			})
		},
	}
	c.outputFlag(cmd, cmd.Flags())
	return cmd
}
