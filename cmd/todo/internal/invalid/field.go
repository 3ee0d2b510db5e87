// Package invalid holds the one error of the todo app that says which input is wrong.
package invalid

import "fmt"

// Field is an error about one field of the input.
type Field struct {
	Name string `json:"field"`
	// Value is what was given, cut short where it is long.
	Value string `json:"value"`
	// Allowed says what would be right.
	Allowed string `json:"allowed"`
}

// NewField makes a Field error; it cuts the value short.
func NewField(name, value, allowed string) *Field {
	const limit = 60
	if runes := []rune(value); len(runes) > limit {
		value = string(runes[:limit]) + "…"
	}
	return &Field{Name: name, Value: value, Allowed: allowed}
}

func (f *Field) Error() string {
	return fmt.Sprintf("%s is %q, want %s", f.Name, f.Value, f.Allowed)
}
