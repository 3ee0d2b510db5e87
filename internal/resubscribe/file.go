package resubscribe

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"github.com/google/renameio/v2"
	"gopkg.in/yaml.v3"
)

// MetadataKey is the metadata item that this package owns in a component's file. Its value means nothing to anyone: that
// it changes is what counts.
const MetadataKey = "resubscribed"

// Touch gives MetadataKey a new value in the components of a file that have the type and one of the names, and returns
// the names that it found. The rest of the file stays as it was, to the letter.
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
	if err := onlyTouched(before, after); err != nil {
		return nil, err
	}
	return found, renameio.WriteFile(path, after, info.Mode().Perm(), renameio.IgnoreUmask())
}

// edit replaces the bytes from offset to end.
type edit struct {
	offset, end int
	text        string
}

func touch(raw []byte, componentType string, names []string, value string) (after []byte, found []string, err error) {
	documents, err := parse(raw)
	if err != nil {
		return nil, nil, err
	}
	text := newText(raw)
	var edits []edit
	for _, document := range documents {
		name, spec := component(document, componentType)
		if spec == nil || !slices.Contains(names, name) {
			continue
		}
		e, err := text.edit(spec, value)
		if err != nil {
			return nil, nil, fmt.Errorf("component %s: %w", name, err)
		}
		edits = append(edits, e)
		found = append(found, name)
	}
	after = raw
	for _, e := range slices.Backward(edits) {
		after = slices.Concat(after[:e.offset], []byte(e.text), after[e.end:])
	}
	return after, found, nil
}

func parse(raw []byte) (documents []*yaml.Node, err error) {
	decoder := yaml.NewDecoder(bytes.NewReader(raw))
	for {
		var node yaml.Node
		err := decoder.Decode(&node)
		if errors.Is(err, io.EOF) {
			return documents, nil
		}
		if err != nil {
			return nil, err
		}
		if len(node.Content) == 1 {
			documents = append(documents, node.Content[0])
		}
	}
}

// component returns the name and the spec of a Component of the type, or nil.
func component(document *yaml.Node, componentType string) (name string, spec *yaml.Node) {
	spec = field(document, "spec")
	if value(field(document, "kind")) != "Component" || value(field(spec, "type")) != componentType {
		return "", nil
	}
	return value(field(field(document, "metadata"), "name")), spec
}

func field(mapping *yaml.Node, key string) *yaml.Node {
	if mapping == nil || mapping.Kind != yaml.MappingNode {
		return nil
	}
	for i := 0; i+1 < len(mapping.Content); i += 2 {
		if mapping.Content[i].Value == key {
			return mapping.Content[i+1]
		}
	}
	return nil
}

func value(node *yaml.Node) string {
	if node == nil || node.Kind != yaml.ScalarNode {
		return ""
	}
	return node.Value
}

// text is a file by lines; starts[i] is the offset of line i+1.
type text struct {
	raw    []byte
	starts []int
}

func newText(raw []byte) *text {
	t := &text{raw: raw, starts: []int{0}}
	for i, b := range raw {
		if b == '\n' {
			t.starts = append(t.starts, i+1)
		}
	}
	return t
}

// line returns a line without its end.
func (t *text) line(number int) string {
	end := len(t.raw)
	if number < len(t.starts) {
		end = t.starts[number] - 1
	}
	return strings.TrimSuffix(string(t.raw[t.starts[number-1]:end]), "\r")
}

func (t *text) edit(spec *yaml.Node, newValue string) (edit, error) {
	quoted := `"` + newValue + `"`
	items := field(spec, "metadata")
	if items == nil {
		return t.insert(spec, strings.Repeat(" ", spec.Column-1)+"metadata:\n"+item(spec.Column+2, quoted)), nil
	}
	if items.Kind != yaml.SequenceNode || items.Style&yaml.FlowStyle != 0 || len(items.Content) == 0 {
		return edit{}, fmt.Errorf("line %d: spec.metadata is not a list with one item a line; add the item %s to it by hand", items.Line, MetadataKey)
	}
	for _, i := range items.Content {
		if value(field(i, "name")) != MetadataKey {
			continue
		}
		old := field(i, "value")
		if old == nil || old.Kind != yaml.ScalarNode || old.Style&(yaml.LiteralStyle|yaml.FoldedStyle) != 0 || i.Style&yaml.FlowStyle != 0 {
			return edit{}, fmt.Errorf("line %d: the item %s has no value on a line of its own; give it one", i.Line, MetadataKey)
		}
		offset := t.starts[old.Line-1] + old.Column - 1
		return edit{offset, offset + scalarLength(t.line(old.Line)[old.Column-1:]), quoted}, nil
	}
	return t.insert(items, item(items.Column, quoted)), nil
}

// item is one more element of a list whose dashes stand in a column.
func item(column int, quoted string) string {
	indent := strings.Repeat(" ", column-1)
	return indent + "- name: " + MetadataKey + "\n" + indent + "  value: " + quoted + "\n"
}

// insert adds lines behind the last line of a block.
func (t *text) insert(block *yaml.Node, lines string) edit {
	last := lastLine(block)
	for next := last + 1; next <= len(t.starts); next++ {
		line := t.line(next)
		indent := len(line) - len(strings.TrimLeft(line, " "))
		if strings.TrimSpace(line) == "" || indent < block.Column || strings.HasPrefix(strings.TrimSpace(line), "#") {
			break
		}
		// The rest of a text that goes over several lines.
		last = next
	}
	if last >= len(t.starts) {
		return edit{len(t.raw), len(t.raw), "\n" + lines}
	}
	return edit{t.starts[last], t.starts[last], lines}
}

func lastLine(node *yaml.Node) int {
	last := node.Line
	for _, child := range node.Content {
		last = max(last, lastLine(child))
	}
	return last
}

// scalarLength is how much of the rest of a line a scalar takes that begins there.
func scalarLength(rest string) int {
	if quote := rest[0]; quote == '"' || quote == '\'' {
		if end := strings.IndexByte(rest[1:], quote); end >= 0 {
			return end + 2
		}
	}
	if comment := strings.Index(rest, " #"); comment >= 0 {
		rest = rest[:comment]
	}
	return len(strings.TrimRight(rest, " \t"))
}

// onlyTouched makes sure that two versions of a file say the same but for our item.
func onlyTouched(before, after []byte) error {
	a, err := withoutItem(before)
	if err != nil {
		return err
	}
	b, err := withoutItem(after)
	if err != nil {
		return err
	}
	if !bytes.Equal(a, b) {
		return fmt.Errorf("its layout is not understood; add the item %s to spec.metadata by hand", MetadataKey)
	}
	return nil
}

func withoutItem(raw []byte) ([]byte, error) {
	documents, err := parse(raw)
	if err != nil {
		return nil, err
	}
	var out bytes.Buffer
	for _, document := range documents {
		if spec := field(document, "spec"); spec != nil && spec.Kind == yaml.MappingNode {
			for i := 0; i+1 < len(spec.Content); i += 2 {
				items := spec.Content[i+1]
				if spec.Content[i].Value != "metadata" || items.Kind != yaml.SequenceNode {
					continue
				}
				items.Content = slices.DeleteFunc(items.Content, func(i *yaml.Node) bool { return value(field(i, "name")) == MetadataKey })
				if len(items.Content) == 0 {
					spec.Content = slices.Delete(spec.Content, i, i+2)
				}
				break
			}
		}
		plain, err := yaml.Marshal(document)
		if err != nil {
			return nil, err
		}
		out.Write(plain)
	}
	return out.Bytes(), nil
}
