package console

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/url"
	"os"
	"strings"

	"github.com/dapr-bolt/dapr-bolt/internal/durable"
)

// TokenFileName is the token's file in the data directory.
const TokenFileName = "console-token"

// Bounds of a token, in bytes.
const (
	minToken = 16
	maxToken = 512
)

// MakeToken creates the token's file with a new token and mode 0600, unless the file is there.
func MakeToken(path string) error {
	if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return durable.WriteFile(path, []byte(rand.Text()+"\n"), 0o600)
}

// ReadToken returns the token that a file holds: one line of 16 to 512 printable ASCII characters without spaces.
func ReadToken(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", fmt.Errorf("read the console's token: %w", err)
	}
	raw, err := io.ReadAll(io.LimitReader(f, maxToken+3))
	if err := errors.Join(err, f.Close()); err != nil {
		return "", fmt.Errorf("read the console's token: %w", err)
	}
	token := strings.TrimRight(string(raw), "\r\n")
	printable := func(r rune) bool { return r > ' ' && r <= '~' }
	if len(token) < minToken || len(token) > maxToken || strings.ContainsFunc(token, func(r rune) bool { return !printable(r) }) {
		return "", fmt.Errorf("the console's token in %s: allowed: %d to %d printable ASCII characters without spaces", path, minToken, maxToken)
	}
	return token, nil
}

// Link returns the link that lets a browser in: base is where it reaches the console, such as http://127.0.0.1:9180.
func Link(base, token string) string {
	return base + loginPath + "?" + url.Values{"token": {token}}.Encode()
}

// credential decides who gets in. The cookie holds another secret than the token, made from it, so that any token fits
// into a cookie.
type credential struct{ token, cookie []byte }

func newCredential(token string) credential {
	mac := hmac.New(sha256.New, []byte(token))
	mac.Write([]byte("cookie"))
	return credential{token: digest(token), cookie: []byte(hex.EncodeToString(mac.Sum(nil)))}
}

// digest gives the texts that are compared one length.
func digest(text string) []byte {
	sum := sha256.Sum256([]byte(text))
	return sum[:]
}

func (c credential) isToken(text string) bool {
	return subtle.ConstantTimeCompare(c.token, digest(text)) == 1
}

func (c credential) isCookie(text string) bool {
	return subtle.ConstantTimeCompare(c.cookie, []byte(text)) == 1
}
