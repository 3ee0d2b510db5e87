package statestore

import "context"

// meterStep is how many bytes a query may examine before it looks whether its context has ended.
const meterStep = 512 << 10

// meter counts what a query examines, and ends it soon after its context has ended. Each look at a value, or at a part of
// one, counts with its length, however many parts of a filter look. A nil meter never ends.
type meter struct {
	ctx       context.Context
	examined  int
	unchecked int
	err       error // of ctx, once it was seen
}

// examine counts n bytes that are about to be looked at. It reports whether to go on; once not, never again.
func (m *meter) examine(n int) bool {
	if m == nil {
		return true
	}
	if m.unchecked += n; m.unchecked >= meterStep && m.err == nil {
		m.err, m.unchecked = m.ctx.Err(), 0
	}
	if m.err != nil {
		return false
	}
	m.examined += n
	return true
}
