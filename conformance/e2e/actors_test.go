package e2e_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"github.com/dapr/go-sdk/actor"
	dapr "github.com/dapr/go-sdk/client"
	daprd "github.com/dapr/go-sdk/service/http"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/dapr-bolt/dapr-bolt/conformance/harness"
)

// The actor of the app: an account that keeps what was paid in, and how often it was reminded.
const accountType = "account"

// Balance is what an account says of itself. The SDK wants it exported, and the actor, too.
type Balance struct {
	Sum, Payments, Reminded int
}

// Account is the actor.
type Account struct {
	actor.ServerImplBaseCtx
	client dapr.Client
}

// Type implements actor.ServerContext.
func (*Account) Type() string { return accountType }

// Pay adds to the sum and counts the payment: two keys, which the SDK saves in one transaction.
func (a *Account) Pay(ctx context.Context, amount int) (*Balance, error) {
	b, err := a.Read(ctx)
	if err != nil {
		return nil, err
	}
	b.Sum += amount
	b.Payments++
	return b, errors.Join(a.GetStateManager().Set(ctx, "sum", b.Sum), a.GetStateManager().Set(ctx, "payments", b.Payments))
}

// Read returns the balance.
func (a *Account) Read(ctx context.Context) (*Balance, error) {
	var b Balance
	for key, value := range map[string]*int{"sum": &b.Sum, "payments": &b.Payments, "reminded": &b.Reminded} {
		state := a.GetStateManager()
		there, err := state.Contains(ctx, key)
		if err != nil {
			return nil, err
		}
		if !there {
			continue
		}
		// Each time a new target: the SDK keeps what it is given, and hands it out later.
		var stored int
		if err := state.Get(ctx, key, &stored); err != nil {
			return nil, err
		}
		*value = stored
	}
	return &b, nil
}

// Remind asks for a reminder every second.
func (a *Account) Remind(ctx context.Context, name string) (*Balance, error) {
	err := a.client.RegisterActorReminder(ctx, &dapr.RegisterActorReminderRequest{
		ActorType: accountType, ActorID: a.ID(), Name: name, DueTime: "1s", Period: "1s",
	})
	return &Balance{}, err
}

// ReminderCall implements actor.ReminderCallee.
func (a *Account) ReminderCall(string, []byte, string, string) {
	ctx := context.Background()
	b, err := a.Read(ctx)
	if err == nil {
		err = errors.Join(a.GetStateManager().Set(ctx, "reminded", b.Reminded+1), a.SaveState(ctx))
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "a reminder that could not be kept:", err)
	}
}

func serveActors(ctx context.Context, address string) error {
	client, err := dapr.NewClient()
	if err != nil {
		return err
	}
	defer client.Close()
	service := daprd.NewService(address)
	service.RegisterActorImplFactoryContext(func() actor.ServerContext { return &Account{client: client} })
	stopped := context.AfterFunc(ctx, func() { _ = service.Stop() })
	defer stopped()
	if err := service.Start(); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

// actorStateTTL turns on the runtime's preview of a time to live for actors' state.
const actorStateTTL = `apiVersion: dapr.io/v1alpha1
kind: Configuration
metadata:
  name: config
spec:
  features:
    - name: ActorStateTTL
      enabled: true
`

// hosts starts placement, scheduler, sidecar and the app by that name, which hosts actors.
func (e *env) hosts(name, control string) (*controlPlane, *harness.Daprd, *harness.App) {
	e.t.Helper()
	plane := e.startControlPlane()
	port, err := e.FreePort()
	require.NoError(e.t, err)
	config := filepath.Join(e.Dir(), "config.yaml")
	require.NoError(e.t, os.WriteFile(config, []byte(actorStateTTL), 0o644))
	d := e.daprd(harness.DaprdOptions{
		AppID:   name,
		AppPort: port,
		Args:    append(plane.sidecarArgs, "--config", config),
	}, storeComponent("actorStateStore", "true"), pubsubComponent())
	require.NoError(e.t, d.WaitCallable(e.t.Context()))
	a := e.process(name, port, d, control)
	require.NoError(e.t, harness.WaitReady(e.t.Context(), a, d))
	// How long these take to end by themselves, on a busy machine, is not what the tests are about.
	e.t.Cleanup(func() {
		d.Kill()
		plane.placement.Kill()
		plane.scheduler.Kill()
	})
	return plane, d, a
}

// A real actor keeps its state and its reminders, whichever of the processes around it is killed.
func TestActorsKeepStateAndReminders(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	plane, d, a := e.hosts("actors", "")
	const account = "/v1.0/actors/" + accountType + "/alice/"
	invoke := func(method string, argument any) (b Balance, err error) {
		r, err := d.Call(t.Context(), http.MethodPut, account+"method/"+method, argument)
		if err == nil {
			err = r.OK()
		}
		if err == nil {
			err = r.JSON(&b)
		}
		return b, err
	}
	read := func() (b Balance) {
		t.Helper()
		e.eventually(func(c *assert.CollectT) {
			var err error
			b, err = invoke("Read", nil)
			require.NoError(c, err)
		})
		return b
	}
	reminded := func(since Balance) Balance {
		t.Helper()
		e.eventually(func(c *assert.CollectT) { require.Greater(c, read().Reminded, since.Reminded+1, "reminders") })
		return read()
	}

	read() // placement has spread that the actor lives here
	_, err := invoke("Remind", "every second")
	require.NoError(t, err)
	want := Balance{}
	for amount := range 20 {
		want.Sum += amount
		want.Payments++
		got, err := invoke("Pay", amount)
		require.NoError(t, err)
		require.Equal(t, want.Sum, got.Sum)
	}
	reminded(Balance{})

	for _, kill := range []struct {
		name string
		do   func()
	}{
		{"dapr-bolt", e.restart},
		{"the app", func() {
			a.Kill()
			require.NoError(t, a.Start())
			require.NoError(t, a.WaitReady(t.Context()))
		}},
		{"the sidecar", func() {
			d.Kill()
			require.NoError(t, d.Start())
			e.ready(d)
		}},
		{"placement and scheduler", func() {
			plane.placement.Kill()
			plane.scheduler.Kill()
			require.NoError(t, errors.Join(plane.placement.Start(), plane.scheduler.Start()))
			require.NoError(t, harness.WaitReady(t.Context(), plane.placement, plane.scheduler))
		}},
		{"all of them", func() {
			d.Kill()
			a.Kill()
			plane.placement.Kill()
			plane.scheduler.Kill()
			e.restart()
			require.NoError(t, errors.Join(plane.placement.Start(), plane.scheduler.Start(), d.Start(), a.Start()))
			require.NoError(t, harness.WaitReady(t.Context(), plane.placement, plane.scheduler, d, a))
		}},
	} {
		before := read()
		began := time.Now()
		kill.do()
		after := read()
		require.GreaterOrEqual(t, after.Reminded, before.Reminded, "after the death of %s", kill.name)
		require.Equal(t, Balance{want.Sum, want.Payments, after.Reminded}, after, "after the death of %s", kill.name)
		after = reminded(after)
		fmt.Printf("%s killed: the actor had its state, and two more reminders came within %s\n", kill.name, time.Since(began).Round(time.Second))
	}

	// What the SDK has no words for: a time to live, and a large transaction that replaces itself.
	save := func(operations []map[string]any) {
		t.Helper()
		require.NoError(t, e.call(d, http.MethodPut, account+"state", operations).OK())
	}
	set := func(key string, value any, metadata map[string]string) map[string]any {
		return map[string]any{"operation": upsert, "request": map[string]any{"key": key, "value": value, "metadata": metadata}}
	}
	state := func(key string) harness.Response { return e.call(d, http.MethodGet, account+"state/"+key, nil) }
	save([]map[string]any{set("brief", 1, map[string]string{"ttlInSeconds": "2"}), set("lasting", 1, nil)})
	e.eventually(func(c *assert.CollectT) { require.Equal(c, http.StatusNoContent, state("brief").Status) })
	require.Equal(t, "1", string(state("lasting").Body))

	const size = 1000
	var operations []map[string]any
	for i := range size {
		operations = append(operations, set("key-"+strconv.Itoa(i), i, nil))
	}
	save(operations)
	require.Equal(t, strconv.Itoa(size-1), string(state("key-"+strconv.Itoa(size-1)).Body))
	for i := range operations {
		operations[i] = map[string]any{"operation": remove, "request": map[string]any{"key": "key-" + strconv.Itoa(i)}}
	}
	save(operations)
	require.Equal(t, http.StatusNoContent, state("key-"+strconv.Itoa(size-1)).Status)
}
