package component

import (
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestManifests holds the component manifests, in the schema of dapr/components-contrib, to the tables that the code goes
// by. conformance/suites holds them to the schema.
func TestManifests(t *testing.T) {
	for path, want := range map[string]string{
		"../../statestore/metadata.yaml": manifest(t, "state", []string{"actorStateStore", "crud", "transactional", "etag", "ttl", "query"}, StateMetadata()),
		"../../pubsub/metadata.yaml":     manifest(t, "pubsub", []string{"ttl"}, PubSubMetadata()),
	} {
		if *update {
			require.NoError(t, os.WriteFile(path, []byte(want), 0o644))
		}
		got, err := os.ReadFile(path)
		require.NoError(t, err)
		require.Equal(t, want, string(got), "%s is not what the code says: go test ./internal/component -run TestManifests -update", path)
	}
}

// examples are what a manifest shows for keys that have no default.
var examples = map[string]string{
	"queryIndexes": "person.city,status",
	"maxBytes":     "2Gi",
	"consumerID":   "my-app",

	"endpoints":   "https://etcd-0:2379,https://etcd-1:2379",
	"url":         "nats://nats-0:4222,nats://nats-1:4222",
	"username":    "dapr-bolt",
	"password":    "a password",
	"token":       "a token",
	"credentials": "/etc/dapr-bolt/nats.creds",
	"caCert":      "/etc/dapr-bolt/ca.pem",
	"clientCert":  "/etc/dapr-bolt/client.pem",
	"clientKey":   "/etc/dapr-bolt/client-key.pem",
}

// sensitive are the keys whose values are secrets.
var sensitive = []string{"password", "token", "credentials", "clientKey"}

var (
	more = regexp.MustCompile(`; \[more\]\([^)]*\)`)
	link = regexp.MustCompile(`\[([^]]*)\]\([^)]*\)`)
)

func manifest(t *testing.T, kind string, capabilities []string, fields []Field) string {
	var b strings.Builder
	fmt.Fprintf(&b, `# yaml-language-server: $schema=https://raw.githubusercontent.com/dapr/components-contrib/main/component-metadata-schema.json
schemaVersion: v1
type: %s
name: bolt
version: v1
status: beta
title: "dapr-bolt"
description: "In one embedded file, by a process that the sidecar loads over a Unix socket."
urls:
  - title: Reference
    url: https://github.com/dapr-bolt/dapr-bolt/blob/main/docs/configuration.md
capabilities:
`, kind)
	for _, capability := range capabilities {
		fmt.Fprintf(&b, "  - %s\n", capability)
	}
	b.WriteString("metadata:\n")
	for _, f := range fields {
		example := f.Default
		if example == "" {
			example = examples[f.Name]
		}
		require.NotEmpty(t, example, "%s has no default: give an example", f.Name)
		meaning := strings.ReplaceAll(link.ReplaceAllString(more.ReplaceAllString(f.Meaning, ""), "$1"), "`", "")
		fmt.Fprintf(&b, "  - name: %s\n    type: %s\n    required: false\n    description: %q\n    example: %q\n", f.Name, manifestType(f), meaning+" ("+strings.ReplaceAll(f.Allowed, "`", "")+")", example)
		if slices.Contains(sensitive, f.Name) {
			b.WriteString("    sensitive: true\n")
		}
		if f.Default != "" {
			fmt.Fprintf(&b, "    default: %q\n", f.Default)
		}
	}
	return b.String()
}

// manifestType is the schema's word for what a field allows.
func manifestType(f Field) string {
	switch {
	case f.Allowed == "true or false":
		return "bool"
	case strings.HasPrefix(f.Allowed, "a duration"):
		return "duration"
	case strings.HasPrefix(f.Allowed, "a whole number"):
		return "number"
	case strings.HasPrefix(f.Allowed, "a number of bytes"):
		return "bytesize"
	}
	return "string"
}
