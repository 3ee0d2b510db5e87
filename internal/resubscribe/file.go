package resubscribe

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"

	"github.com/google/renameio/v2"
	"gopkg.in/yaml.v3"
)

// MetadataKey is the metadata item that a component's file holds for this package. Its value means nothing to anyone: that
// it changes is what counts.
const MetadataKey = "resubscribed"

// Touch gives MetadataKey a new value in the components of a file that have the type and one of the names, and returns
// the names that it found. The rest of the file stays as it was. A component without that item is found, and an error.
func Touch(path, componentType string, names []string, value string) (found []string, err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("change %s in %s: %w", MetadataKey, path, err)
		}
	}()
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	before, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	after, found, err := touch(before, componentType, names, value)
	if err != nil || len(found) == 0 {
		return found, err
	}
	return found, renameio.WriteFile(path, after, info.Mode().Perm(), renameio.IgnoreUmask())
}

func touch(file []byte, componentType string, names []string, value string) (after []byte, found []string, err error) {
	values, found, err := valuesOf(file, componentType, names)
	if err != nil {
		return nil, found, err
	}
	lines := bytes.SplitAfter(file, []byte("\n"))
	for _, v := range values {
		line := lines[v.Line-1]
		changed := string(line[:v.Column-1]) + `"` + value + `"`
		if v.LineComment != "" {
			changed += " " + v.LineComment
		}
		end := line[len(bytes.TrimRight(line, "\r\n")):]
		lines[v.Line-1] = append([]byte(changed), end...)
	}
	after = slices.Concat(lines...)
	// What was written must be read as what was meant.
	values, _, err = valuesOf(after, componentType, names)
	for _, v := range values {
		if v.Value != value {
			err = errors.Join(err, fmt.Errorf("line %d: the item %s must have a value on one line; give it one", v.Line, MetadataKey))
		}
	}
	return after, found, err
}

// valuesOf returns the values of MetadataKey in the components of the type and the names, and the names of those.
func valuesOf(file []byte, componentType string, names []string) (values []*yaml.Node, found []string, err error) {
	decoder := yaml.NewDecoder(bytes.NewReader(file))
	var lacking error
	for {
		var document yaml.Node
		err := decoder.Decode(&document)
		if errors.Is(err, io.EOF) {
			return values, found, lacking
		}
		if err != nil {
			return nil, nil, err
		}
		var component struct {
			Kind     string
			Metadata struct{ Name string }
			Spec     struct {
				Type     string
				Metadata []struct {
					Name  string
					Value yaml.Node
				}
			}
		}
		if document.Decode(&component) != nil || component.Kind != "Component" || component.Spec.Type != componentType ||
			!slices.Contains(names, component.Metadata.Name) {
			continue
		}
		found = append(found, component.Metadata.Name)
		has := false
		for _, item := range component.Spec.Metadata {
			if item.Name == MetadataKey && item.Value.Kind == yaml.ScalarNode {
				values, has = append(values, &item.Value), true
			}
		}
		if !has {
			lacking = errors.Join(lacking, fmt.Errorf("component %s: its spec.metadata has no item %s; add one with any value, which dapr-bolt then changes", component.Metadata.Name, MetadataKey))
		}
	}
}
