package statestore

import "time"

// Item is one version of a key, or the news that there is none.
type Item struct {
	Key string
	// Found reports whether the key exists; if not, all fields below but Err are zero.
	Found bool
	// Value is byte for byte what was set. It belongs to whoever got the Items; those of one key share it.
	Value []byte
	// ETag names this version of this key for ever.
	ETag string
	// ContentType is what the set call said; it may be empty.
	ContentType string
	// Expires is the instant from which the key is absent; zero: it stays.
	Expires time.Time
	// Err says, instead of Found, why this one item was not read.
	Err error
}

// Size returns what the item takes of an answer's room, in bytes: value, ETag and content type.
func (i *Item) Size() int { return len(i.Value) + len(i.ETag) + len(i.ContentType) }
