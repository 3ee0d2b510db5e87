package main

import (
	"context"
	"errors"
	"fmt"
	"html"
	"net"
	"net/http"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/dapr-bolt/dapr-bolt/internal/admin"
	"github.com/dapr-bolt/dapr-bolt/internal/console"
	"github.com/dapr-bolt/dapr-bolt/internal/durable"
	"github.com/dapr-bolt/dapr-bolt/internal/metrics"
)

// consoleSettings are what the flags say of the console.
type consoleSettings struct {
	on                   bool
	tokenFile            string
	readOnly, hideValues bool
	hosts                []string
}

func (s *consoleSettings) addFlags(flags *pflag.FlagSet) {
	addSwitch(flags, &s.on, "console", "serve the console at --http-listen; the command console prints the link to it")
	addEnvFlag(flags, &s.tokenFile, "console-token-file", "file", "a file with the token that lets people into the console (default: "+console.TokenFileName+" in the data directory, made at the first start)", parseFile)
	addSwitch(flags, &s.readOnly, "console-read-only", "the console refuses all changes")
	addSwitch(flags, &s.hideValues, "console-hide-values", "the console shows no payloads and no values")
	addEnvFlag(flags, &s.hosts, "console-host", "names", "host names by which browsers reach the console through a proxy with TLS; none: loopback addresses only", parseHosts)
}

func parseFile(text string) (string, error) {
	if text == "" {
		return "", errors.New("allowed: the path of a file")
	}
	return filepath.Abs(text)
}

// consoleTokenFile is where the token is.
func (c *cli) consoleTokenFile() string {
	if c.console.tokenFile != "" {
		return c.console.tokenFile
	}
	return filepath.Join(c.dataDir, console.TokenFileName)
}

// serveHTTP serves health, metrics and the console.
func (c *cli) serveHTTP(ctx context.Context, p *process, service *admin.Service) error {
	registry, err := admin.NewRegistry(admin.RegistryOptions{
		Databases: p.databases, Metrics: p.metrics, Health: p.checkHealth, Version: version(),
		Limits: func() []metrics.Limit {
			if server := p.component.Load(); server != nil {
				return server.Limits()
			}
			return nil
		},
	})
	if err != nil {
		return err
	}
	opts := admin.HealthOptions{Addr: c.httpListen, Ready: p.ready, Metrics: registry, Logger: p.log}
	if c.console.on {
		opts.Console = func(addr string) (http.Handler, error) { return c.newConsole(addr, service, p) }
	}
	health, err := admin.ListenHealth(ctx, opts)
	if err != nil {
		return fmt.Errorf("--http-listen: %w", err)
	}
	p.add(part{stop: health.Stop})
	p.health.Store(health)
	if shown := p.console.Load(); shown != nil {
		p.add(part{stop: shown.Stop}) // before the listener, which waits for the pages that are open
	}
	return nil
}

// newConsole makes the console, but for an address that others than this machine's users reach without a name that is given.
func (c *cli) newConsole(addr string, service *admin.Service, p *process) (http.Handler, error) {
	host, _, err := net.SplitHostPort(addr)
	if err != nil {
		return nil, err
	}
	if ip := net.ParseIP(host); ip == nil || !ip.IsLoopback() {
		if len(c.console.hosts) == 0 {
			p.log.Info("the console is off, as others than this machine's users reach --http-listen; --console-host turns it on", "address", addr)
			return http.NotFoundHandler(), nil
		}
		p.log.Warn("the console is served without TLS on an address that others reach: a proxy before it must bring TLS", "address", addr, "hosts", c.console.hosts)
	}
	if c.console.tokenFile == "" {
		if err := console.MakeToken(c.consoleTokenFile()); err != nil {
			return nil, fmt.Errorf("make the console's token: %w", err)
		}
	}
	token, err := console.ReadToken(c.consoleTokenFile())
	if err != nil {
		return nil, err
	}
	shown, err := console.New(console.Options{
		Service:    service,
		Token:      token,
		Addr:       addr,
		Hosts:      c.console.hosts,
		ReadOnly:   c.console.readOnly,
		HideValues: c.console.hideValues,
		Clock:      c.clock,
		Logger:     p.log,
	})
	p.console.Store(shown)
	return shown, err
}

// sayLink prints the link to the console for whoever started the process on a terminal.
func (c *cli) sayLink(p *process) {
	if shown := p.console.Load(); shown != nil && c.interactive {
		fmt.Fprintln(c.errOut, "The console:", shown.Link())
	}
}

// linkPage is the file through which a browser is opened: its command line, where the link would stand, is for all users
// of the machine to see.
const linkPage = "console.html"

func (c *cli) consoleCommand() *cobra.Command {
	var open bool
	cmd := c.command("console", "Print the link that lets a browser into the console", func(ctx context.Context, _ []string) error {
		info, err := admin.CallInfo.Ask(ctx, c.client, admin.Empty{})
		if err != nil {
			return err
		}
		if info.Console == "" {
			return errors.New("the process serves no console: start it with --http-listen, without --console=false, and on other than loopback addresses with --console-host")
		}
		token, err := console.ReadToken(info.ConsoleTokenFile)
		if err != nil {
			return err
		}
		link := console.Link(info.Console, token)
		if open {
			return c.openBrowser(ctx, link)
		}
		return c.say(map[string]string{"link": link}, "%s\n", link)
	})
	cmd.Long = `Print the link that lets a browser into the console of the running process, or open it with --open. Whoever has the
link can see and change what the console shows: it holds the token.`
	c.outputFlag(cmd, cmd.Flags())
	cmd.Flags().BoolVar(&open, "open", false, "open it in the browser of this desktop")
	return cmd
}

func (c *cli) openBrowser(ctx context.Context, link string) error {
	path := filepath.Join(c.dataDir, linkPage)
	page := `<!doctype html><title>dapr-bolt</title><meta http-equiv="refresh" content="0; url=` + html.EscapeString(link) + `">` + "\n"
	if err := durable.WriteFile(path, []byte(page), 0o600); err != nil {
		return fmt.Errorf("open the console: %w", err)
	}
	opener := "xdg-open"
	if runtime.GOOS == "darwin" {
		opener = "open"
	}
	if out, err := exec.CommandContext(ctx, opener, path).CombinedOutput(); err != nil {
		return fmt.Errorf("open the console with %s: %w: %s", opener, err, strings.TrimSpace(string(out)))
	}
	return nil
}
