package console

import (
	"flag"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/chromedp"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/dapr-bolt/dapr-bolt/conformance/harness"
)

const noSlot = "retriable error occurred: retriable error returned from app while processing pub/sub event e, topic: orders, body: no slot left. status code returned: 500"

func event(id int) string {
	return fmt.Sprintf(`{"specversion":"1.0","id":"order-%d","source":"shop","type":"order.placed","data":{"order":%d,"items":["tea","milk"]}}`, id, id)
}

// A failing handler's dead letter is found, understood and sent again with three clicks.
func TestADeadLetterIsSentAgain(t *testing.T) {
	h := harness.ForTest(t)
	bolt := harness.StartBolt(t, h, harness.BoltOptions{})
	a := startApp(t, bolt, "scheduler", "orders")
	b := open(t, bolt)
	b.click("Dead letters")
	b.see("No dead letters")

	a.fail(noSlot)
	a.publish("orders", "order-1", event(1))
	b.see("no slot left (status 500)") // without a reload

	b.click("no slot left")
	b.see("order.placed")
	b.see("status code returned: 500")
	a.work()
	b.click("Redrive")
	b.see("Sent again")
	b.see("No dead letters")
	require.Eventually(t, func() bool { return a.handled.Load() == 1 }, patience, time.Millisecond)
}

// What arrives while a person is at the page takes away neither what was typed nor the button that the keyboard is on.
func TestALivePageLeavesAPersonAlone(t *testing.T) {
	h := harness.ForTest(t)
	bolt := harness.StartBolt(t, h, harness.BoltOptions{})
	a := startApp(t, bolt, "scheduler", "orders")
	a.fail(noSlot)
	b := open(t, bolt)
	b.click("Dead letters")
	b.see("No dead letters")
	require.False(t, do(b, chromedp.Evaluate[bool](`document.querySelector('[name="rate"]').checkVisibility()`)), "there is nothing to redrive")
	a.publish("orders", "order-1", event(1))
	b.see("1 dead letter, by cause")
	require.True(t, do(b, chromedp.Evaluate[bool](`document.querySelector('[name="rate"]').checkVisibility()`)))
	b.fill("rate", "7")
	b.wait(`document.querySelector('button[aria-label^="Redrive all 1: no slot left"]').focus() === undefined`)

	a.fail("printer on fire")
	for i := range 3 {
		a.publish("orders", fmt.Sprint("burning-", i), event(1))
	}
	b.see("4 dead letters, by cause")
	require.Contains(t, do(b, chromedp.Evaluate[string](`document.querySelector("tbody tr").innerText`)), "printer on fire", "the new cause is the first row")
	require.Equal(t, "7", do(b, chromedp.Evaluate[string](`document.querySelector('[name="rate"]').value`)))
	require.Equal(t, "Redrive all 1: no slot left (status 500)", do(b, chromedp.Evaluate[string](`document.activeElement.getAttribute("aria-label")`)))
}

// A key is found, shown, and deleted only in the version that was shown.
func TestAKeyIsDeletedByItsETag(t *testing.T) {
	h := harness.ForTest(t)
	bolt := harness.StartBolt(t, h, harness.BoltOptions{})
	a := startApp(t, bolt, "scheduler", "orders")
	require.NoError(t, a.client.InitState(t.Context()))
	set := func(value string) { require.NoError(t, a.client.Set(t.Context(), "shop||tea", []byte(value))) }
	set(`{"pots":3}`)
	b := open(t, bolt)
	b.click("State")
	b.fill("prefix", "shop||t")
	b.click("Find")
	b.click("shop||tea")
	b.see(`"pots": 3`)
	b.click("Delete the key")
	b.see("gone for good")
	set(`{"pots":2}`) // somebody else is faster
	b.fill("confirm", "delete")
	b.click("Delete")
	b.see("Conflict")
	b.see("Somebody else has changed the key")
	b.visit("/state/key?key=shop||tea")
	b.see(`"pots": 2`)
	b.click("Delete the key")
	b.click("Keep it")
	b.click("Delete the key")
	b.fill("confirm", "delete")
	b.click("Delete")
	b.see("Deleted.")
	b.see("No keys")
}

func TestATopicIsWatchedLive(t *testing.T) {
	h := harness.ForTest(t)
	bolt := harness.StartBolt(t, h, harness.BoltOptions{})
	a := startApp(t, bolt, "scheduler", "orders")
	a.publish("orders", "order-1", event(1))
	b := open(t, bolt)
	b.click("Topics")
	b.click("orders")
	b.see("order-1")
	a.publish("orders", "order-2", event(2))
	b.see("order-2") // without a reload
	b.fill("data", `{"order": 3}`)
	b.fill("id", "order-3")
	b.click("Publish")
	b.see("Published.")
	b.see("order-3")
	require.Eventually(t, func() bool { return a.handled.Load() == 3 }, patience, time.Millisecond)
}

// A slip in one field costs nobody what is in the others.
func TestBackKeepsWhatWasTyped(t *testing.T) {
	const data = `{"order": 1, "items": ["tea"]}`
	bolt := harness.StartBolt(t, harness.ForTest(t), harness.BoltOptions{})
	startApp(t, bolt, "scheduler", "orders").publish("orders", "order-1", event(1))
	b := open(t, bolt)
	b.visit("/topic?topic=orders")
	b.fill("data", data)
	b.fill("metadata", "no value")
	b.click("Publish")
	b.see("allowed: key=value on each line")
	do(b, chromedp.Evaluate[chromedp.Void](`document.querySelector("main a").click()`))
	b.wait(fmt.Sprintf(`document.querySelector('main [name="data"]')?.value === %q`, data))
}

func TestAPurgeIsTypedToConfirm(t *testing.T) {
	h := harness.ForTest(t)
	bolt := harness.StartBolt(t, h, harness.BoltOptions{})
	a := startApp(t, bolt, "scheduler", "orders")
	a.fail(noSlot)
	a.publish("orders", "order-1", event(1))
	b := open(t, bolt)
	b.click("Dead letters")
	b.click("no slot left")
	b.click("Purge")
	b.see("gone for good")
	b.fill("confirm", "yes")
	b.click("Purge")
	b.see("That was another text")
	b.fill("confirm", "purge 1")
	b.click("Purge")
	b.see("Purged")
	letters, err := bolt.DeadLetters(t.Context())
	require.NoError(t, err)
	require.Empty(t, letters)
}

func TestThousandsAreSentAgainWithProgress(t *testing.T) {
	const many = 5000
	h := harness.ForTest(t)
	bolt := harness.StartBolt(t, h, harness.BoltOptions{})
	a := startApp(t, bolt, "scheduler", "orders")
	a.fail(noSlot)
	const atOnce = 50
	for i := range many / atOnce {
		errs := make(chan error, atOnce)
		for j := range atOnce {
			n := i*atOnce + j
			go func() { errs <- a.client.Publish(t.Context(), "orders", fmt.Sprint(n), []byte(event(n))) }()
		}
		for range atOnce {
			require.NoError(t, <-errs)
		}
	}
	b := open(t, bolt)
	b.click("Dead letters")
	b.see("5,000 dead letters, by cause")
	require.Equal(t, 1, do(b, chromedp.Evaluate[int](`document.querySelectorAll("tbody tr").length`)), "they died of one cause")

	a.work()
	b.fill("rate", "2000")
	b.click("Redrive all")
	b.wait(`document.querySelector("progress").value > 0`)
	b.see("5,000 of 5,000 redriven")
	b.click("Dead letters") // the page was closed, and is found again
	b.click("Redrive 1")
	b.see("5,000 of 5,000 redriven")
	require.Eventually(t, func() bool { return a.handled.Load() == many }, patience, 10*time.Millisecond)
}

// pages are all pages, once there is something to show.
var pages = []struct{ name, path string }{
	{"topics", "/topics"},
	{"event", "/event?topic=invoices.paid&sequence=1"},
	{"state", "/state"},
	{"key", "/state/key?key=shop||tea"},
	{"topic", "/topic?topic=orders"},
	{"query", "/state/query?query=" + url.QueryEscape(`{"filter":{"EQ":{"kind":"green"}}}`)},
	{"idempotency-keys", "/state/idempotency-keys"},
	{"topic-without-groups", "/topic?topic=invoices.paid"},
	{"retrying-event", "/event?topic=shipments&sequence=1"},
	{"remove-group", ""},
	{"remove-bucket", ""},
	{"delete-key", ""},
	{"dead-letters", "/dead-letters"},
	{"dead-letters-list", "/dead-letters?view=list"},
	{"dead-letter", "/dead-letter?id=1"},
	{"purge", ""},
	{"purge-all", ""},
	{"job", ""},
	{"dead-letters-and-jobs", "/dead-letters"},
	{"not-found", "/dead-letter?id=999"},
	{"empty", "/dead-letters?topic=nothing"},
	// There is most to draw in the end.
	{"overview", "/"},
}

// fillUp makes a process with something on every page.
func fillUp(t *testing.T, bolt *harness.Bolt) *browser {
	t.Helper()
	a := startApp(t, bolt, "scheduler", "orders")
	mail := startApp(t, bolt, "mailer", "mails")
	a.fail(noSlot)
	for i := range 7 {
		a.publish("orders", fmt.Sprint("order-", i+1), event(i+1))
	}
	mail.fail("dial tcp 127.0.0.1:8025: connect: connection refused")
	for i := range 3 {
		mail.publish("mails", fmt.Sprint("mail-", i+1), fmt.Sprintf(`{"to":"ann%d@example.org"}`, i))
	}
	require.Eventually(t, func() bool {
		letters, err := bolt.DeadLetters(t.Context())
		return err == nil && len(letters) == 10
	}, patience, 50*time.Millisecond)
	a.work()
	mail.work()
	for i := range 200 {
		a.publish("invoices.paid", fmt.Sprint("invoice-", i), `{"total": 12.50}`)
	}
	ship := startApp(t, bolt, "shipper", "shipments", "maxDeliver", "5", "backOff", "1h")
	ship.fail(noSlot)
	ship.publish("shipments", "shipment-1", event(1))
	require.NoError(t, a.client.InitState(t.Context()))
	require.NoError(t, a.client.Set(t.Context(), "shop||tea", []byte(`{"pots": 3, "kind": "green"}`)))
	require.NoError(t, a.client.Set(t.Context(), "stock||milk", []byte(`{"bottles": 12}`)))
	return open(t, bolt)
}

// show brings a page up, also one to which only a form leads.
func (b *browser) show(name, path string) {
	b.t.Helper()
	switch name {
	case "remove-group":
		b.visit("/topic?topic=orders")
		b.click("Remove group scheduler")
	case "remove-bucket":
		b.visit("/topics")
		b.click("Remove bucket pubsub")
	case "delete-key":
		b.visit("/state/key?key=shop||tea")
		b.click("Delete the key")
	case "purge":
		b.visit("/dead-letter?id=2")
		b.click("Purge")
	case "purge-all":
		b.visit("/dead-letters?topic=mails")
		b.fill("rate", "10")
		b.click("Purge all of these")
	case "job":
		b.visit("/dead-letters?topic=mails")
		b.fill("rate", "0.01")
		b.click("Redrive all of these")
	default:
		b.visit(path)
	}
	if name == "overview" {
		b.wait(`document.querySelector("polyline") !== null`)
	}
}

// newPages are those of a process that was just started.
var newPages = []struct{ name, path string }{
	{"new-overview", "/"}, {"new-topics", "/topics"}, {"new-dead-letters", "/dead-letters"}, {"new-state", "/state"}, {"refused", "/"},
}

// eachLook calls fn with every page in every look.
func eachLook(t *testing.T, fn func(b *browser, page string, l look)) {
	inLooks := func(b *browser, page string) {
		for _, l := range looks {
			b.as(l)
			fn(b, page, l)
		}
	}
	b := open(t, harness.StartBolt(t, harness.ForTest(t), harness.BoltOptions{}))
	for _, p := range newPages {
		if p.name == "refused" {
			b.forget()
		}
		b.visit(p.path)
		inLooks(b, p.name)
	}
	b = fillUp(t, harness.StartBolt(t, harness.ForTest(t), harness.BoltOptions{}))
	for _, p := range pages {
		b.show(p.name, p.path)
		inLooks(b, p.name)
	}
}

// axe-core finds no violation on any page, light and dark, and nothing sticks out on a phone.
func TestPagesAreForEverybody(t *testing.T) {
	eachLook(t, func(b *browser, page string, l look) {
		assert.Empty(t, b.violations(), "%s, %s", page, l)
		assert.Empty(t, b.overflow(), "%s, %s", page, l)
	})
}

var screenshots = flag.String("screenshots", "", "a folder for pictures of every page")

func TestScreenshots(t *testing.T) {
	if *screenshots == "" {
		t.Skip("make screenshots takes the pictures")
	}
	require.NoError(t, os.MkdirAll(*screenshots, 0o755))
	eachLook(t, func(b *browser, page string, l look) {
		path := filepath.Join(*screenshots, page+"-"+l.String()+".png")
		require.NoError(t, os.WriteFile(path, do(b, chromedp.FullScreenshot(100)), 0o644))
	})
}

// Hostile content is text in a real browser, too.
func TestHostileContentIsText(t *testing.T) {
	bolt := harness.StartBolt(t, harness.ForTest(t), harness.BoltOptions{})
	const script = `<script>window.attacked = true</script><img src=x onerror="window.attacked = true">`
	topic := "a<b>" + strings.ReplaceAll(script, `"`, "'") + "\u202eb"
	a := startApp(t, bolt, "app", topic)
	a.fail(script + "\u202e")
	for i, payload := range []string{script, strings.Repeat("x", 4_000_000), "\xff\xfe" + script, `{"a":"` + strings.ReplaceAll(script, `"`, "'") + "\u202e" + `"}`} {
		a.publish(topic, fmt.Sprint(i)+script, payload)
	}
	b := open(t, bolt)
	for _, path := range []string{"/topics", "/dead-letters", "/dead-letters?view=list"} {
		b.visit(path)
		b.see("<script>")
		b.safe(path)
	}
	for id := 1; id <= 4; id++ {
		for _, as := range []string{"json", "text", "hex"} {
			b.visit(fmt.Sprintf("/dead-letter?id=%d&as=%s", id, as))
			b.see("<script>")
			b.safe(as)
		}
	}
}

func (b *browser) safe(what string) {
	b.t.Helper()
	require.False(b.t, do(b, chromedp.Evaluate[bool]("window.attacked === true || document.querySelector('main script, main img') !== null")), what)
	require.Empty(b.t, b.overflow(), what)
}
