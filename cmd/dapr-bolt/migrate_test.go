package main

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

// What a component file cannot say to migrate is refused before anything is opened.
func TestMigrateRefusesComponentFiles(t *testing.T) {
	const head = "apiVersion: dapr.io/v1alpha1\nkind: Component\nmetadata: {name: store}\n"
	state := head + "spec: {type: state.bolt, version: v1}\n"
	for name, of := range map[string]struct{ to, says string }{
		"a secret": {
			head + "spec: {type: state.bolt, metadata: [{name: password, secretKeyRef: {name: etcd, key: password}}]}\n",
			"metadata password is a reference: allowed: the value itself",
		},
		"a variable": {
			head + "spec: {type: state.bolt, metadata: [{name: endpoints, envRef: ETCD}]}\n",
			"metadata endpoints is a reference: allowed: the value itself",
		},
		"a list": {
			head + "spec: {type: state.bolt, metadata: [{name: endpoints, value: [a, b]}]}\n",
			"metadata endpoints: allowed: a single value",
		},
		"a map": {
			head + "spec: {type: state.bolt, metadata: {bucket: orders}}\n",
			"to.yaml: yaml: unmarshal errors",
		},
		"two components": {state + "---\n" + state, "more than one document"},
		"another type":   {head + "spec: {type: state.redis}\n", `spec.type "state.redis": allowed: state.bolt, pubsub.bolt`},
		"the other kind": {head + "spec: {type: pubsub.bolt}\n", "allowed: two of one type"},
		"the same file":  {state, "allowed: two databases"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			from, to, data := filepath.Join(dir, "from.yaml"), filepath.Join(dir, "to.yaml"), filepath.Join(dir, "data")
			require.NoError(t, os.WriteFile(from, []byte(state), 0o600))
			require.NoError(t, os.WriteFile(to, []byte(of.to), 0o600))
			got := shell{}.run(t, "migrate", "--from", from, "--to", to, "--data-dir", data)
			require.NotZero(t, got.code)
			require.Contains(t, got.stderr, of.says)
			require.NoDirExists(t, data)
		})
	}
}

func TestMigrateNamesTheFlagOfAFileThatIsNotThere(t *testing.T) {
	dir := t.TempDir()
	from := filepath.Join(dir, "from.yaml")
	require.NoError(t, os.WriteFile(from, []byte("apiVersion: dapr.io/v1alpha1\nkind: Component\nmetadata: {name: store}\nspec: {type: state.bolt, version: v1}\n"), 0o600))
	got := shell{}.run(t, "migrate", "--from", from, "--to", filepath.Join(dir, "to.yaml"), "--data-dir", dir)
	require.Equal(t, exitFailure, got.code)
	require.Contains(t, got.stderr, "component file of --to: open "+filepath.Join(dir, "to.yaml"))
}
