package statestore

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/fxamacker/cbor/v2"

	"github.com/dapr-bolt/dapr-bolt/internal/invalid"
)

// A token is base64url of a format byte and a CBOR map with integer keys: the position of the last item of a page, and
// what tells whether the next query sorts alike.
const tokenFormat = 1

type tokenBody struct {
	Sort   []byte   `cbor:"1,keyasint"`
	Values [][]byte `cbor:"2,keyasint,omitempty"`
	Key    string   `cbor:"3,keyasint"`
}

// position is where an item stands in a query's answer.
type position struct {
	values [][]byte // in the order of JSON values, one for each SortKey
	key    string
}

// sortDigest tells sort orders apart.
func sortDigest(keys []SortKey) []byte {
	h := sha256.New()
	for _, k := range keys {
		var head [5]byte
		binary.BigEndian.PutUint32(head[:], uint32(len(k.Path)))
		if k.Descending {
			head[4] = 1
		}
		h.Write(head[:])
		h.Write([]byte(k.Path))
	}
	return h.Sum(nil)[:8]
}

func encodeToken(keys []SortKey, at *position) (string, error) {
	body, err := cbor.Marshal(tokenBody{Sort: sortDigest(keys), Values: at.values, Key: at.key})
	if err != nil {
		return "", fmt.Errorf("encode token: %w", err)
	}
	return base64.RawURLEncoding.EncodeToString(append([]byte{tokenFormat}, body...)), nil
}

// decodeToken returns an invalid.Error unless token is from a query that sorted by keys.
func decodeToken(token string, keys []SortKey) (*position, error) {
	at, err := parseToken(token, keys)
	if err != nil {
		return nil, invalid.New("token", token, "one that the page before came with: "+err.Error())
	}
	return at, nil
}

func parseToken(token string, keys []SortKey) (*position, error) {
	const longest = MaxPageSize
	if len(token) > longest {
		return nil, errors.New("it is too long")
	}
	raw, err := base64.RawURLEncoding.DecodeString(token)
	if err != nil {
		return nil, errors.New("it is not base64url")
	}
	if len(raw) == 0 || raw[0] != tokenFormat {
		return nil, errors.New("it has an unknown format")
	}
	var body tokenBody
	if err := cbor.Unmarshal(raw[1:], &body); err != nil {
		return nil, errors.New("it is damaged")
	}
	if !bytes.Equal(body.Sort, sortDigest(keys)) || len(body.Values) != len(keys) {
		return nil, errors.New("it is from a query with another sort")
	}
	for _, v := range body.Values {
		if len(v) > MaxSortValueSize {
			return nil, errors.New("it is damaged")
		}
	}
	if CheckKey(body.Key) != nil {
		return nil, errors.New("it is damaged")
	}
	return &position{values: body.Values, key: body.Key}, nil
}
