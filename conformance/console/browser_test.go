package console

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/cdproto/cdp"
	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/cdproto/network"
	"github.com/chromedp/chromedp"
	"github.com/stretchr/testify/require"

	"github.com/dapr-bolt/dapr-bolt/conformance/harness"
)

// patience bounds each wait for something that must happen.
const patience = 3 * time.Minute

// requireVariable turns the absence of a tool that a test needs into a failure, for machines that must have it.
const requireVariable = "DAPR_BOLT_REQUIRE_TOOLS"

var (
	chromiumNames = []string{"chromium", "chromium-browser", "google-chrome"}
	errNoBrowser  = fmt.Errorf("no Chromium: install one of %v", chromiumNames)
)

// chromium is the path of one. As root on Debian, it is installed where it is missing.
var chromium = sync.OnceValues(func() (string, error) {
	find := func() (string, error) {
		for _, name := range chromiumNames {
			if path, err := exec.LookPath(name); err == nil {
				return path, nil
			}
		}
		return "", errNoBrowser
	}
	if path, err := find(); err == nil {
		return path, nil
	}
	apt, err := exec.LookPath("apt-get")
	if err != nil || os.Geteuid() != 0 {
		return "", errNoBrowser
	}
	fmt.Fprintln(os.Stderr, "installing chromium with apt-get, to look at the console")
	for _, args := range [][]string{{"update", "-qq"}, {"install", "-y", "-qq", "--no-install-recommends", "chromium"}} {
		cmd := exec.Command(apt, args...)
		cmd.Env = append(os.Environ(), "DEBIAN_FRONTEND=noninteractive")
		if out, err := cmd.CombinedOutput(); err != nil {
			return "", fmt.Errorf("%w: apt-get %v: %w: %s", errNoBrowser, args, err, out)
		}
	}
	return find()
})

// browser is one window on a console.
type browser struct {
	t    *testing.T
	ctx  context.Context
	base string
}

// open starts a browser with a profile of its own and lets it in.
func open(t *testing.T, bolt *harness.Bolt) *browser {
	t.Helper()
	path, err := chromium()
	if errors.Is(err, errNoBrowser) && os.Getenv(requireVariable) == "" {
		t.Skip("THE CONSOLE IS NOT TESTED: ", err)
	}
	require.NoError(t, err)
	link, err := bolt.ConsoleLink(t.Context())
	require.NoError(t, err)
	profile, err := os.MkdirTemp("", "dapr-bolt-chromium-")
	require.NoError(t, err)
	// The browser's helpers may outlive it for an instant, and write meanwhile.
	t.Cleanup(func() {
		require.Eventually(t, func() bool { return os.RemoveAll(profile) == nil }, patience, 20*time.Millisecond, profile)
	})
	allocator, cancel := chromedp.NewExecAllocator(context.Background(),
		chromedp.ExecPath(path),
		chromedp.UserDataDir(profile),
		chromedp.Headless, chromedp.NoSandbox, chromedp.DisableGPU, chromedp.NoFirstRun, chromedp.NoDefaultBrowserCheck,
		chromedp.Flag("disable-quic", true),
		chromedp.Flag("disable-background-networking", true),
		chromedp.Flag("disable-component-update", true),
		chromedp.Flag("disable-sync", true),
		chromedp.Flag("disable-dev-shm-usage", true),
		chromedp.Flag("hide-scrollbars", true),
		chromedp.WSURLReadTimeout(patience),
	)
	t.Cleanup(cancel)
	ctx, cancelTab := chromedp.NewContext(allocator)
	t.Cleanup(cancelTab)
	b := &browser{t: t, ctx: ctx, base: "http://" + bolt.HTTPAddress}
	// The first action starts the browser, which lives as long as its context.
	_, err = chromedp.Run(ctx, chromedp.Navigate(link))
	require.NoError(t, err)
	b.see("Topics")
	return b
}

// do does something in the window, within patience.
func do[T any](b *browser, action chromedp.Action[T]) T {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(b.ctx, patience)
	defer cancel()
	result, err := chromedp.Run(ctx, action)
	require.NoError(b.t, err)
	return result
}

// visit opens a page of the console.
func (b *browser) visit(path string) {
	b.t.Helper()
	do(b, chromedp.Navigate(b.base+path))
}

// see waits until the page shows text.
func (b *browser) see(text string) {
	b.t.Helper()
	b.wait(fmt.Sprintf("document.body.innerText.includes(%q)", text))
}

// wait waits until an expression is true. While another page comes up, it is not.
func (b *browser) wait(expression string) {
	b.t.Helper()
	require.Eventually(b.t, func() bool {
		ok, err := chromedp.Run(b.ctx, chromedp.Evaluate[bool](expression))
		return err == nil && ok
	}, patience, 20*time.Millisecond, expression)
}

// click clicks the first link or button with a name, and waits for the page behind it.
func (b *browser) click(name string) {
	b.t.Helper()
	// The page is live: between finding and clicking by coordinates, the element might be replaced.
	const script = `(() => {
		const all = Array.from(document.querySelectorAll("main a, main button, nav a"));
		const found = all.find((e) => (e.getAttribute("aria-label") || e.innerText).trim().startsWith(%q));
		if (found) { window.left = true; found.click(); }
		return Boolean(found);
	})()`
	b.wait(fmt.Sprintf(script, name))
	b.wait("window.left !== true && document.readyState === 'complete'")
}

// fill types into the field with a name.
func (b *browser) fill(name, text string) {
	b.t.Helper()
	// As in click: a field that is being typed into is not replaced, but it might be just before.
	const script = `(() => {
		const field = document.querySelector('main [name="%s"]');
		if (field) { field.focus(); field.value = %q; field.dispatchEvent(new Event("input", {bubbles: true})); }
		return Boolean(field);
	})()`
	b.wait(fmt.Sprintf(script, name, text))
}

// forget takes the cookie away.
func (b *browser) forget() {
	b.t.Helper()
	do(b, chromedp.Func(func(ctx context.Context, target *chromedp.Target) error {
		_, err := cdp.Call(ctx, target, network.ClearBrowserCookies, cdp.Empty{})
		return err
	}))
}

// Looks.
type look struct {
	scheme string
	width  int64
}

func (l look) String() string { return fmt.Sprintf("%s-%d", l.scheme, l.width) }

var looks = []look{{"light", 1280}, {"dark", 1280}, {"light", 390}, {"dark", 390}}

func (b *browser) as(l look) {
	b.t.Helper()
	do(b, chromedp.EmulateViewport(l.width, 800))
	do(b, chromedp.Func(func(ctx context.Context, target *chromedp.Target) error {
		_, err := cdp.Call(ctx, target, emulation.SetEmulatedMedia, emulation.SetEmulatedMediaParams{
			Features: []*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: l.scheme}},
		})
		return err
	}))
}

// axeVersion is that of axe-core, as npm names it, which finds what people with disabilities cannot use. Its licence is
// MPL-2.0; it is run in tests, and no part of dapr-bolt.
const axeVersion = "axe-core@4.14.1"

// axe is axe-core's script, which is downloaded with npm into the checkout's cache when it is not there yet.
var axe = sync.OnceValues(func() (string, error) {
	checkout, err := harness.FindCheckout()
	if err != nil {
		return "", err
	}
	dir := checkout.Path(".cache", axeVersion)
	path := filepath.Join(dir, "node_modules", "axe-core", "axe.min.js")
	if err := checkout.Once(context.Background(), path, func() error {
		fmt.Fprintf(os.Stderr, "downloading %s with npm into .cache\n", axeVersion)
		out, err := exec.Command("npm", "install", "--silent", "--ignore-scripts", "--no-save", "--prefix", dir, axeVersion).CombinedOutput()
		if err != nil {
			return fmt.Errorf("download %s: %w: %s", axeVersion, err, out)
		}
		return nil
	}); err != nil {
		return "", err
	}
	script, err := os.ReadFile(path)
	return string(script), err
})

// violations are what axe-core finds on the page, by all of its rules.
func (b *browser) violations() []string {
	b.t.Helper()
	script, err := axe()
	require.NoError(b.t, err)
	do(b, chromedp.Evaluate[chromedp.Void](script))
	return do(b, chromedp.Evaluate[[]string](`axe.run(document).then((r) => r.violations.map((v) => v.id + ": " + v.help + ": " + v.nodes.map((n) => n.html.slice(0, 200)).join(" | ")))`,
		chromedp.EvalAwaitPromise))
}

// overflow names elements that stick out of the page to the right.
func (b *browser) overflow() []string {
	b.t.Helper()
	return do(b, chromedp.Evaluate[[]string](`Array.from(document.querySelectorAll("main *, header *")).filter((e) => {
		const box = e.getBoundingClientRect();
		return box.width > 0 && box.right > document.documentElement.clientWidth + 1 && !e.closest("pre, thead");
	}).map((e) => e.outerHTML.slice(0, 120))`))
}
