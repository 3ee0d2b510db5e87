package harness

import (
	"fmt"
	"os"
	"path/filepath"

	"gopkg.in/yaml.v3"
)

// Component is a Dapr component file. What has no field here is kept as it stands.
type Component struct {
	APIVersion string         `yaml:"apiVersion"`
	Kind       string         `yaml:"kind"`
	Metadata   ComponentName  `yaml:"metadata"`
	Spec       ComponentSpec  `yaml:"spec"`
	Rest       map[string]any `yaml:",inline"`
}

// ComponentName holds the name by which apps know the component.
type ComponentName struct {
	Name string         `yaml:"name"`
	Rest map[string]any `yaml:",inline"`
}

// ComponentSpec says what the component is.
type ComponentSpec struct {
	Type        string              `yaml:"type"`
	Version     string              `yaml:"version"`
	InitTimeout string              `yaml:"initTimeout,omitempty"`
	Metadata    []ComponentMetadata `yaml:"metadata,omitempty"`
	Rest        map[string]any      `yaml:",inline"`
}

// ComponentMetadata is one setting.
type ComponentMetadata struct {
	Name  string         `yaml:"name"`
	Value any            `yaml:"value,omitempty"`
	Rest  map[string]any `yaml:",inline"`
}

// NewComponent describes a component with settings given as pairs of key and value.
func NewComponent(name, componentType string, settings ...string) Component {
	c := Component{
		APIVersion: "dapr.io/v1alpha1",
		Kind:       "Component",
		Metadata:   ComponentName{Name: name},
		Spec:       ComponentSpec{Type: componentType, Version: "v1"},
	}
	for i := 0; i+1 < len(settings); i += 2 {
		c.Set(settings[i], settings[i+1])
	}
	return c
}

// ReadComponent reads a component file.
func ReadComponent(path string) (Component, error) {
	raw, err := os.ReadFile(filepath.Clean(path))
	if err != nil {
		return Component{}, err
	}
	var c Component
	if err := yaml.Unmarshal(raw, &c); err != nil {
		return Component{}, fmt.Errorf("%s: %w", path, err)
	}
	if c.Kind != "Component" {
		return Component{}, fmt.Errorf("%s: kind is %q; allowed is Component", path, c.Kind)
	}
	return c, nil
}

// Set gives the setting key a value, whether or not it had one.
func (c *Component) Set(key, value string) {
	for i := range c.Spec.Metadata {
		if c.Spec.Metadata[i].Name == key {
			c.Spec.Metadata[i].Value = value
			return
		}
	}
	c.Spec.Metadata = append(c.Spec.Metadata, ComponentMetadata{Name: key, Value: value})
}

// WriteComponents writes each component into its own file in dir, which it makes.
func WriteComponents(dir string, components ...Component) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	for _, c := range components {
		raw, err := yaml.Marshal(c)
		if err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(dir, c.Metadata.Name+".yaml"), raw, 0o644); err != nil {
			return err
		}
	}
	return nil
}
