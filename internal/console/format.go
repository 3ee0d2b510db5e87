package console

import (
	"fmt"
	"html/template"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/dapr-bolt/dapr-bolt/internal/admin"
	"github.com/dapr-bolt/dapr-bolt/internal/cause"
)

// functions are what templates say things with.
var functions = template.FuncMap{
	"number":  number,
	"bytes":   admin.ByteSize,
	"when":    when,
	"visible": visible,
	"short":   short,
	"plural":  plural,
	"link":    link,
	"span":    span,
	"cause":   cause.Of,
	"rate":    perSecond,
}

// number groups digits by three.
func number(n any) string {
	text := fmt.Sprint(n)
	var b strings.Builder
	for i, digit := range text {
		if i > 0 && (len(text)-i)%3 == 0 && text[i-1] != '-' {
			b.WriteByte(',')
		}
		b.WriteRune(digit)
	}
	return b.String()
}

func plural(n any, one, many string) string {
	if text := number(n); text != "1" {
		return text + " " + many
	}
	return "1 " + one
}

// when says how far t is from now, roughly, beside the exact time; nothing for the zero time.
func when(now, t time.Time) template.HTML {
	if t.IsZero() {
		return ""
	}
	t = t.UTC()
	d, text := now.Sub(t), "just now"
	switch {
	case d < 0:
		text = "in " + span(-d)
	case d >= 5*time.Second:
		text = span(d) + " ago"
	}
	return template.HTML(fmt.Sprintf(`<time datetime="%s" title="%s">%s</time>`, t.Format(time.RFC3339Nano), t.Format("2006-01-02 15:04:05.000 UTC"), text))
}

func span(d time.Duration) string {
	const day = 24 * time.Hour
	switch {
	case d < time.Minute:
		return fmt.Sprintf("%d s", int(d/time.Second))
	case d < time.Hour:
		return fmt.Sprintf("%d min", int(d/time.Minute))
	case d < 2*day:
		return fmt.Sprintf("%d h", int(d/time.Hour))
	default:
		return fmt.Sprintf("%d days", int(d/day))
	}
}

// visible returns text in which every byte that is no UTF-8, and every character that shows nothing or turns the direction
// of what comes after it, stands as an escape. Line breaks and tabs stay.
func visible(text string) string {
	hidden := func(r rune) bool {
		return r == utf8.RuneError || r != '\n' && r != '\t' && (unicode.IsControl(r) || unicode.Is(unicode.Cf, r) || unicode.Is(unicode.Zl, r) || unicode.Is(unicode.Zp, r))
	}
	if strings.IndexFunc(text, hidden) < 0 {
		return text
	}
	var b strings.Builder
	for len(text) > 0 {
		r, size := utf8.DecodeRuneInString(text)
		switch {
		case r == utf8.RuneError && size == 1:
			fmt.Fprintf(&b, `\x%02x`, text[0])
		case r != utf8.RuneError && hidden(r):
			fmt.Fprintf(&b, `\u{%04x}`, r)
		default:
			b.WriteString(text[:size])
		}
		text = text[size:]
	}
	return b.String()
}

// maxShort is how many characters short leaves.
const maxShort = 160

// short is the beginning of a text, in one line.
func short(text string) string {
	// Four bytes are the most that a character takes.
	cut := len(text) > maxShort*utf8.UTFMax
	if cut {
		text = text[:maxShort*utf8.UTFMax]
	}
	text = visible(strings.Join(strings.Fields(text), " "))
	if runes := []rune(text); len(runes) > maxShort {
		text, cut = string(runes[:maxShort]), true
	}
	if cut {
		text += "…"
	}
	return text
}
