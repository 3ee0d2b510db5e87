package natsbroker

import (
	"slices"
	"strconv"

	"github.com/nats-io/nats.go"
)

const (
	// maxHeaders is what a message may have of headers before its records move: a server takes 64 KiB, its own ones
	// included.
	maxHeaders = 32 << 10
	// bytesSuffix makes the header that says how many bytes a record has in the data.
	bytesSuffix = "-Bytes"
)

// records are the headers that grow with what users and apps say, in the order in which they stand in the data.
var records = []string{headerEvent, headerDeath, headerHistory}

// packRecords moves the records of a message that has too much of headers to the beginning of its data.
func packRecords(m *nats.Msg) {
	size := 0
	for name, values := range m.Header {
		size += len(name) + len(values[0])
	}
	if size <= maxHeaders {
		return
	}
	var moved []byte
	for _, name := range records {
		if record := m.Header.Get(name); record != "" {
			moved = append(moved, record...)
			m.Header[name+bytesSuffix] = []string{strconv.Itoa(len(record))}
			delete(m.Header, name)
		}
	}
	m.Data = slices.Concat(moved, m.Data)
}

// unpackRecords is the reverse, of any message. It returns the data without the records.
func unpackRecords(header nats.Header, data []byte) []byte {
	for _, name := range records {
		n, err := strconv.ParseUint(header.Get(name+bytesSuffix), 10, 32)
		if err != nil || n > uint64(len(data)) {
			continue
		}
		header[name] = []string{string(data[:n])}
		delete(header, name+bytesSuffix)
		data = data[n:]
	}
	return data
}
