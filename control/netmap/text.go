package netmap

import (
	"encoding/json"
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"time"

	"tailscale.com/tailcfg"
)

// The append functions write JSON. They exist because the struct of the
// protocol cannot say "empty but present", which means something in deltas, and
// because equal content must give equal bytes.

func appendString(b []byte, s string) []byte {
	for i := range len(s) {
		if c := s[i]; c < ' ' || c > '~' || c == '"' || c == '\\' {
			quoted, _ := json.Marshal(s) // cannot fail for a string
			return append(b, quoted...)
		}
	}
	b = append(b, '"')
	b = append(b, s...)
	return append(b, '"')
}

func appendStrings(b []byte, list []string) []byte {
	return appendList(b, list, appendString)
}

func appendList[T any](b []byte, list []T, one func([]byte, T) []byte) []byte {
	b = append(b, '[')
	for i, v := range list {
		if i > 0 {
			b = append(b, ',')
		}
		b = one(b, v)
	}
	return append(b, ']')
}

func appendPrefix(b []byte, p netip.Prefix) []byte {
	b = append(b, '"')
	b = p.AppendTo(b)
	return append(b, '"')
}

func appendPrefixes(b []byte, list []netip.Prefix) []byte {
	return appendList(b, list, appendPrefix)
}

// appendEndpoints leaves out what peers could not use and what would not be
// understood: a zone belongs to one host.
func appendEndpoints(b []byte, list []netip.AddrPort) []byte {
	b = append(b, '[')
	first := true
	for _, ep := range list {
		if !ep.IsValid() || ep.Addr().Zone() != "" {
			continue
		}
		if !first {
			b = append(b, ',')
		}
		first = false
		b = append(b, '"')
		b = ep.AppendTo(b)
		b = append(b, '"')
	}
	return append(b, ']')
}

// appendTime writes whole seconds: more is noise to clients and to comparisons.
func appendTime(b []byte, t time.Time) []byte {
	b = append(b, '"')
	b = t.UTC().AppendFormat(b, "2006-01-02T15:04:05Z")
	return append(b, '"')
}

func appendInt[T ~int | ~int64](b []byte, n T) []byte {
	return strconv.AppendInt(b, int64(n), 10)
}

// textKey is a key of the protocol, which writes itself in hexadecimal.
type textKey interface {
	AppendText([]byte) ([]byte, error)
}

func appendKey(b []byte, k textKey) []byte {
	b = append(b, '"')
	b, _ = k.AppendText(b) // cannot fail
	return append(b, '"')
}

// appendCaps writes a map of capabilities in the order of their names. One
// whose values are not JSON is left out.
func appendCaps(b []byte, caps tailcfg.NodeCapMap) []byte {
	b = append(b, '{')
	first := true
	for _, name := range slices.Sorted(maps.Keys(caps)) {
		values := []byte("null")
		if len(caps[name]) > 0 {
			text, err := json.Marshal(caps[name])
			if err != nil {
				continue
			}
			values = text
		}
		if !first {
			b = append(b, ',')
		}
		first = false
		b = appendString(b, string(name))
		b = append(b, ':')
		b = append(b, values...)
	}
	return append(b, '}')
}

// appendValue writes what encoding/json makes of v, or fallback if v cannot be
// written.
func appendValue(b []byte, v any, fallback string) []byte {
	text, err := json.Marshal(v)
	if err != nil {
		return append(b, fallback...)
	}
	return append(b, text...)
}
