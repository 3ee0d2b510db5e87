package main

import (
	"os/exec"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// TestDependenciesAreFew keeps the binary small: one careless import brings Kubernetes' clients, and doubles it.
func TestDependenciesAreFew(t *testing.T) {
	const most = 530
	out, err := exec.CommandContext(t.Context(), "go", "list", "-deps", ".").Output()
	require.NoError(t, err)
	packages := strings.Fields(string(out))
	assert.LessOrEqual(t, len(packages), most)
	for _, p := range packages {
		for _, unwanted := range []string{"k8s.io/client-go", "k8s.io/api/", "github.com/dapr/dapr/pkg/components"} {
			assert.NotContains(t, p, unwanted)
		}
	}
}
