package boltengine

import (
	"bytes"
	"fmt"
	"math"
	"unicode/utf8"

	"github.com/dapr-bolt/dapr-bolt/statestore"
)

// record is what is written for a key.
type record struct {
	Version     uint64 `cbor:"1,keyasint"`
	ExpiresAt   int64  `cbor:"2,keyasint,omitempty"` // nanoseconds since 1970; 0: never
	ContentType string `cbor:"3,keyasint,omitempty"`
	Value       []byte `cbor:"4,keyasint,omitempty"`
}

// recordOverhead is more than a record takes beside its value and content type.
const recordOverhead = 48

// stored is a record where it lies in the file: it must not outlive the bytes that it was read from.
type stored struct {
	header
	contentType, value []byte
}

// header is what writes need of a record.
type header struct {
	Version   uint64
	ExpiresAt int64 // nanoseconds since 1970; 0: never
}

// decodeRecord takes a key's record apart.
func decodeRecord[K ~string | ~[]byte](key K, raw []byte) (stored, error) {
	var s stored
	ok := false
	if len(raw) > 0 && raw[0] == recordFormat {
		s, ok = scan(raw[1:])
	}
	if !ok {
		var r record
		if err := decode(raw, &r); err != nil {
			return stored{}, damagedKey(string(key), err)
		}
		s = stored{header{r.Version, r.ExpiresAt}, []byte(r.ContentType), r.Value}
	}
	if s.Version == 0 || s.ExpiresAt < 0 {
		return stored{}, damagedKey(string(key), fmt.Errorf("version %d, end %d: neither can be", s.Version, s.ExpiresAt))
	}
	return s, nil
}

// The major types of CBOR (RFC 8949, section 3.1) that records are made of.
const (
	cborUint  = 0
	cborBytes = 2
	cborText  = 3
	cborMap   = 5
)

// scan reads a record as encode writes it, which is how all builds so far have written it. What it does not know is left to
// the library, which copies values and takes longer than the search for the record.
func scan(data []byte) (s stored, ok bool) {
	major, fields, data, ok := head(data)
	if !ok || major != cborMap {
		return stored{}, false
	}
	for last := uint64(0); fields > 0; fields-- {
		major, key, rest, ok := head(data)
		if !ok || major != cborUint || key <= last {
			return stored{}, false
		}
		last = key
		major, argument, rest, ok := head(rest)
		switch inside := argument <= uint64(len(rest)); {
		case !ok:
			return stored{}, false
		case key == 1 && major == cborUint:
			s.Version = argument
		case key == 2 && major == cborUint && argument <= math.MaxInt64:
			s.ExpiresAt = int64(argument)
		case key == 3 && major == cborText && inside && utf8.Valid(rest[:argument]):
			s.contentType, rest = rest[:argument], rest[argument:]
		case key == 4 && major == cborBytes && inside:
			s.value, rest = rest[:argument], rest[argument:]
		default:
			return stored{}, false
		}
		data = rest
	}
	return s, len(data) == 0
}

// head takes the head of a data item off data: its major type and its argument. ok is false where there is none.
func head(data []byte) (major byte, argument uint64, rest []byte, ok bool) {
	const inOne, inEight = 24, 27 // bytes behind the first
	if len(data) == 0 {
		return 0, 0, nil, false
	}
	major, argument, rest = data[0]>>5, uint64(data[0]&31), data[1:]
	if argument < inOne {
		return major, argument, rest, true
	}
	if argument > inEight || len(rest) < 1<<(argument-inOne) {
		return 0, 0, nil, false
	}
	size := 1 << (argument - inOne)
	argument = 0
	for _, b := range rest[:size] {
		argument = argument<<8 | uint64(b)
	}
	return major, argument, rest[size:], true
}

func damagedKey(key string, err error) error {
	return &statestore.DamagedError{Record: fmt.Sprintf("value of key %q", key), Err: err}
}

// item copies the record, or returns an item with ErrNoRoom if that takes more than room.
func (s *stored) item(key string, room int) statestore.Item {
	item := statestore.Item{
		Key:         key,
		Found:       true,
		Value:       s.value,
		ETag:        etag(s.Version),
		ContentType: string(s.contentType),
		Expires:     instantTime(s.ExpiresAt),
	}
	if item.Size() > room {
		return statestore.Item{Key: key, Err: statestore.ErrNoRoom}
	}
	item.Value = bytes.Clone(s.value)
	return item
}
