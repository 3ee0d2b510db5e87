package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"gopkg.in/yaml.v3"

	"github.com/dapr-bolt/dapr-bolt/internal/resubscribe"
)

// The component files that `dapr-bolt dev` writes, by their names; %s is the name of the process's socket.
var componentFiles = map[string]string{
	"statestore.yaml": `# Where apps keep state. They call it statestore.
apiVersion: dapr.io/v1alpha1
kind: Component
metadata:
  name: statestore
spec:
  type: state.%s
  version: v1
`,
	"pubsub.yaml": `# Where apps publish and get events. They call it pubsub. Each app id is a consumer group.
apiVersion: dapr.io/v1alpha1
kind: Component
metadata:
  name: pubsub
spec:
  type: pubsub.%s
  version: v1
  metadata:
    # dapr-bolt changes this value after a restart: a changed file makes sidecars subscribe again.
    - name: ` + resubscribe.MetadataKey + `
      value: ""
`,
}

// ensureComponents says which of the process's components the folders hold, and returns the files that have its pub/subs.
// Where there is no component at all, it writes some into the first folder.
func (c *cli) ensureComponents(folders []string) (pubsubFiles []string, err error) {
	var ours []string
	written, others := false, 0
	for {
		for _, folder := range folders {
			files, err := componentsIn(folder)
			if err != nil {
				return nil, err
			}
			for _, file := range files {
				switch file.Spec.Type {
				case "state." + c.name:
				case "pubsub." + c.name:
					pubsubFiles = append(pubsubFiles, file.path)
				default:
					others++
					continue
				}
				ours = append(ours, fmt.Sprintf("%s (%s)", file.Metadata.Name, file.Spec.Type))
			}
		}
		if len(ours)+others > 0 || written {
			break
		}
		if err := c.writeComponents(folders[0]); err != nil {
			return nil, err
		}
		written = true
	}
	if len(ours) == 0 {
		fmt.Fprintf(c.out, "none of the components in %s is of type state.%s or pubsub.%s\n", strings.Join(folders, ", "), c.name, c.name)
		return nil, nil
	}
	slices.Sort(ours)
	fmt.Fprintf(c.out, "components in %s: %s\n", strings.Join(folders, ", "), strings.Join(slices.Compact(ours), ", "))
	slices.Sort(pubsubFiles)
	return slices.Compact(pubsubFiles), nil
}

func (c *cli) writeComponents(folder string) error {
	if err := os.MkdirAll(folder, 0o755); err != nil {
		return fmt.Errorf("component files: %w", err)
	}
	for name, text := range componentFiles {
		path := filepath.Join(folder, name)
		file, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
		if err != nil {
			return fmt.Errorf("component files: %w", err)
		}
		_, err = fmt.Fprintf(file, text, c.name)
		if err := errors.Join(err, file.Close()); err != nil {
			return fmt.Errorf("component files: %w", err)
		}
		fmt.Fprintln(c.out, "wrote", path)
	}
	return nil
}

// componentFile is one component, or another document, and the file that it stands in.
type componentFile struct {
	path     string
	Kind     string
	Metadata struct{ Name string }
	Spec     struct {
		Type string
		// Metadata is a list in a component, and a map in a subscription.
		Metadata yaml.Node
	}
}

// componentsIn reads the components in a folder, as a sidecar does; a folder that is not there has none.
func componentsIn(folder string) (found []componentFile, err error) {
	entries, err := os.ReadDir(folder)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("component files: %w", err)
	}
	for _, entry := range entries {
		if extension := filepath.Ext(entry.Name()); entry.IsDir() || extension != ".yaml" && extension != ".yml" {
			continue
		}
		documents, err := readComponents(filepath.Join(folder, entry.Name()))
		if err != nil {
			return nil, fmt.Errorf("component files: %w", err)
		}
		found = append(found, documents...)
	}
	return slices.DeleteFunc(found, func(f componentFile) bool { return f.Kind != "Component" }), nil
}

// readComponents reads each document of a file.
func readComponents(path string) (documents []componentFile, err error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	for decoder := yaml.NewDecoder(file); ; {
		document := componentFile{path: path}
		switch err := decoder.Decode(&document); {
		case errors.Is(err, io.EOF):
			return documents, nil
		case err != nil:
			return nil, fmt.Errorf("%s: %w", path, err)
		}
		documents = append(documents, document)
	}
}
