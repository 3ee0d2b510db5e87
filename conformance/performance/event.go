package performance

import (
	"bytes"
	"fmt"
	"strconv"
	"sync/atomic"
	"time"
)

// events makes CloudEvents of one size, each with an id of its own, and marks those that came back.
type events struct {
	prefix, suffix []byte
	size           int
	base           int64
	next           atomic.Int64
	arrived        []atomic.Bool
	unique         atomic.Int64
	last           atomic.Int64 // when the newest first arrival was, in Unix nanoseconds
}

const (
	idDigits = 12
	idField  = `"id":"`
)

// bases keeps the ids of all events of this process apart: some peers look for duplicates in more than one topic.
var bases atomic.Int64

func newEvents(size, most int) *events {
	e := &events{
		prefix:  []byte(`{"specversion":"1.0",` + idField),
		suffix:  []byte(`","source":"b","type":"t","data":"`),
		size:    size,
		base:    bases.Add(int64(most)) - int64(most),
		arrived: make([]atomic.Bool, most),
	}
	return e
}

// make returns the next event and its number, and false when there is none left.
func (e *events) make() (data []byte, number int, ok bool) {
	number = int(e.next.Add(1)) - 1
	if number >= len(e.arrived) {
		e.next.Add(-1)
		return nil, 0, false
	}
	data = make([]byte, 0, e.size)
	data = append(data, e.prefix...)
	data = fmt.Appendf(data, "%0*d", idDigits, e.base+int64(number))
	data = append(data, e.suffix...)
	for len(data) < e.size-2 {
		data = append(data, byte('a'+len(data)%26))
	}
	return append(data, '"', '}'), number, true
}

// arrive returns an event's number, and whether it came for the first time; -1 is an event of somebody else.
func (e *events) arrive(data []byte) (number int, first bool) {
	at := bytes.Index(data, []byte(idField))
	if at < 0 || len(data) < at+len(idField)+idDigits {
		return -1, false
	}
	id, err := strconv.ParseInt(string(data[at+len(idField):at+len(idField)+idDigits]), 10, 64)
	if err != nil || id < e.base || id >= e.base+int64(len(e.arrived)) {
		return -1, false
	}
	number = int(id - e.base)
	if e.arrived[number].Swap(true) {
		return number, false
	}
	e.last.Store(time.Now().UnixNano())
	e.unique.Add(1)
	return number, true
}
