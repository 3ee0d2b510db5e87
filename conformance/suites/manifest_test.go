package suites

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/santhosh-tekuri/jsonschema/v5"
	"github.com/stretchr/testify/require"
	"sigs.k8s.io/yaml"

	"github.com/dapr-bolt/dapr-bolt/conformance/harness"
)

// The component manifests follow the schema of components-contrib.
func TestManifestsFollowTheSchema(t *testing.T) {
	checkout, err := harness.FindCheckout()
	require.NoError(t, err)
	contrib, err := exec.CommandContext(t.Context(), "go", "list", "-m", "-f", "{{.Dir}}", "github.com/dapr/components-contrib").Output()
	require.NoError(t, err)
	schema, err := jsonschema.Compile(filepath.Join(strings.TrimSpace(string(contrib)), "component-metadata-schema.json"))
	require.NoError(t, err)
	for _, domain := range []string{"statestore", "pubsub"} {
		raw, err := os.ReadFile(checkout.Path(domain, "metadata.yaml"))
		require.NoError(t, err)
		asJSON, err := yaml.YAMLToJSON(raw)
		require.NoError(t, err)
		var manifest any
		require.NoError(t, json.Unmarshal(asJSON, &manifest))
		require.NoError(t, schema.Validate(manifest), domain)
		delete(manifest.(map[string]any), "title")
		require.Error(t, schema.Validate(manifest), "the schema has no demands")
	}
}
