package faults

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/dapr-bolt/dapr-bolt/conformance/harness"
)

const smallValues = 200

func smallKey(i int) string { return fmt.Sprintf("small-%03d", i) }

// smallValue takes a page for a dozen of them.
func smallValue(i int) string { return fmt.Sprintf("%03d:%s", i, strings.Repeat("x", 300)) }

// setSmall stores values that share pages.
func setSmall(t *testing.T, store *harness.Client) {
	t.Helper()
	for i := range smallValues {
		require.NoError(t, store.Set(t.Context(), smallKey(i), []byte(smallValue(i))))
	}
}

// clearPages writes zeros over every page of a file that holds the value, or held it once.
func clearPages(t *testing.T, raw []byte, value string) {
	t.Helper()
	size, found := os.Getpagesize(), false
	for at := 0; at < len(raw); at += size {
		if page := raw[at:min(at+size, len(raw))]; bytes.Contains(page, []byte(value)) {
			clear(page)
			found = true
		}
	}
	require.True(t, found)
}

// A file of more than 64 MiB is not read as a whole when it is opened. Damage that is met later fails the call that meets
// it and /readyz, and nothing else.
func TestDamageThatIsMetLaterFailsThatCallAlone(t *testing.T) {
	t.Parallel()
	const (
		verified = 64 << 20
		value    = 3 << 20
		damaged  = smallValues / 2
	)
	e := newEnv(t)
	b := e.bolt(harness.BoltOptions{})
	store := e.store(b)
	setSmall(t, store)
	events := e.pubsub(b, "shop")
	for _, topic := range []string{"kept", "orders"} {
		for i := range smallValues {
			require.NoError(t, events.Publish(t.Context(), topic, smallKey(i), []byte(topic+smallValue(i))))
		}
	}
	for i := range verified/value + 1 {
		require.NoError(t, store.Set(t.Context(), fmt.Sprintf("large-%d", i), make([]byte, value)))
	}
	require.NoError(t, b.Stop())
	path := filepath.Join(b.DataDir, "dapr.db")
	raw, err := os.ReadFile(path)
	require.NoError(t, err)
	require.Greater(t, len(raw), verified)
	sound := bytes.Clone(raw)
	clearPages(t, raw, smallValue(damaged))
	clearPages(t, raw, "kept"+smallValue(smallValues-1))
	require.NoError(t, os.WriteFile(path, raw, 0o600))

	const says = "the database file is damaged (dapr-bolt check says where), or this is a bug: "
	for name, test := range map[string]struct {
		call func(store *harness.Client) error
		want string
	}{
		"get": {func(store *harness.Client) error {
			_, err := store.Get(t.Context(), smallKey(damaged))
			return err
		}, says + "panic while reading"},
		"set": {func(store *harness.Client) error {
			return store.Set(t.Context(), smallKey(damaged), []byte("new"))
		}, says + "panic in a write function"},
		"publish": {func(*harness.Client) error {
			return e.pubsub(b, "shop").Publish(t.Context(), "kept", "next", []byte("data"))
		}, says + "panic in a write function"},
	} {
		require.NoError(t, b.Restart(t.Context()), name)
		pid := b.PID()
		store := e.store(b)
		e.readyz(b, http.StatusOK, "ok")
		err := test.call(store)
		require.ErrorContains(t, err, test.want, name)
		require.ErrorContains(t, err, "Page expected to be: ", name)
		code, body := e.get(b, http.MethodGet, "/readyz")
		require.Equal(t, http.StatusServiceUnavailable, code, name)
		require.Contains(t, body, "database dapr: ", name)
		require.Contains(t, body, test.want, name)
		code, _ = e.get(b, http.MethodGet, "/healthz")
		require.Equal(t, http.StatusOK, code, "%s: a restart would mend nothing", name)

		for _, i := range []int{0, smallValues - 1} {
			require.NoError(t, store.Set(t.Context(), smallKey(i), []byte(name)), name)
			got, err := store.Get(t.Context(), smallKey(i))
			require.NoError(t, err, name)
			require.Equal(t, name, string(got))
		}
		got, err := store.Get(t.Context(), smallKey(1))
		require.NoError(t, err)
		require.Equal(t, smallValue(1), string(got))
		require.NoError(t, store.Set(t.Context(), "large-0", make([]byte, value)), name)
		require.NoError(t, e.pubsub(b, "shop").Publish(t.Context(), "orders", name, []byte("data")), name)
		require.Equal(t, pid, b.PID(), "%s: without a restart", name)
		require.NoError(t, b.Stop(), name)
	}
	require.ErrorContains(t, b.Command(t.Context(), nil, "check"), path+" is damaged")

	// A recovery does not need the pages that the log says something of.
	require.NoError(t, os.WriteFile(path, sound, 0o600))
	require.NoError(t, b.Restart(t.Context()))
	require.NoError(t, e.store(b).Set(t.Context(), smallKey(damaged), []byte("in the log")))
	b.Kill()
	raw, err = os.ReadFile(path)
	require.NoError(t, err)
	clearPages(t, raw, smallValue(damaged))
	require.NoError(t, os.WriteFile(path, raw, 0o600))
	require.NoError(t, b.Restart(t.Context()))
	got, err := e.store(b).Get(t.Context(), smallKey(damaged))
	require.NoError(t, err)
	require.Equal(t, "in the log", string(got))
	b.Kill() // which no checkpoint lets stop cleanly
}

// A file of at most 64 MiB is read as a whole when it is opened: no damage of a page gets past that.
func TestDamageThatIsFoundAtOpenRefusesTheFile(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	b := e.bolt(harness.BoltOptions{Name: "first"})
	setSmall(t, e.store(b))
	require.NoError(t, b.Stop())
	path := filepath.Join(b.DataDir, "dapr.db")
	sound, err := os.ReadFile(path)
	require.NoError(t, err)
	for name, test := range map[string]struct {
		damage func(raw []byte)
		want   string
	}{
		"a page of values": {func(raw []byte) { clearPages(t, raw, smallValue(smallValues/2)) }, " has another page's number"},
		"keys of a page": {func(raw []byte) {
			for key := []byte(smallKey(smallValues / 2)); bytes.Contains(raw, key); {
				raw[bytes.Index(raw, key)] = 'a'
			}
		}, " has keys that do not ascend"},
		"an entry of the list of free pages": {func(raw []byte) { raw[freePages(raw)] ^= 1 }, " "},
	} {
		raw := bytes.Clone(sound)
		test.damage(raw)
		require.NoError(t, os.WriteFile(path, raw, 0o600))
		said := e.refuses(harness.BoltOptions{})
		require.Contains(t, said, path+": not a database file of this version: damaged: page ", name)
		require.Contains(t, said, test.want, name)
		left, err := os.ReadFile(path)
		require.NoError(t, err)
		require.True(t, bytes.Equal(raw, left), "%s: the file was changed", name)
		require.ErrorContains(t, b.Command(t.Context(), nil, "check"), path+" is damaged", name)
	}
}

// freePages returns where the list of free pages begins: the one of the two first pages that is of the later transaction
// says so.
func freePages(raw []byte) int {
	const pageHeader, list, transaction = 16, 32, 48
	size := os.Getpagesize()
	field := func(page, at int) uint64 { return binary.NativeEndian.Uint64(raw[page*size+pageHeader+at:]) }
	newest := 0
	if field(1, transaction) > field(0, transaction) {
		newest = 1
	}
	return int(field(newest, list))*size + pageHeader
}
